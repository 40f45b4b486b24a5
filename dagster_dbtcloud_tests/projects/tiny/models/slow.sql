{{ config(materialized='table') }}
select count(distinct sin(range)) as n from range({{ var('slow_rows') }})

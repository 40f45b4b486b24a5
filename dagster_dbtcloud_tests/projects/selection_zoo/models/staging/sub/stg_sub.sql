{{ config(materialized='ephemeral', tags=['sub', 'nightly']) }}
select * from {{ ref('stg_orders') }}

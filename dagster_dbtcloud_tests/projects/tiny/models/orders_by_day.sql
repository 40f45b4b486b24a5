{{ config(materialized='incremental', unique_key='id') }}
select *
from {{ ref('orders') }}
where ordered_on = cast('{{ var("day") }}' as date)

{{ config(materialized='table') }}
select customer, count(*) as orders, cast(sum(amount) as integer) as spent
from {{ ref('orders') }}
group by customer

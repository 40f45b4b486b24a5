{{ config(materialized='ephemeral') }}
select o.order_id, sum(p.amount) as total
from {{ ref('stg_orders') }} as o
join {{ ref('eph_payments') }} as p on p.order_id = o.order_id
group by o.order_id

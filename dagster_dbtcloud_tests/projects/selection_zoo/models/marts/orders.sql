{{ config(event_time='ordered_at') }}
select o.id, o.customer_id, o.amount, o.ordered_at
from {{ ref('stg_orders') }} o
join {{ ref('stg_customers') }} c on c.id = o.customer_id

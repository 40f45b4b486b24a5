{{ config(group='finance') }}
select o.order_id
from {{ ref('orders') }} as o
left join {{ ref('ledger') }} as l on l.order_id = o.order_id
where l.order_id is null

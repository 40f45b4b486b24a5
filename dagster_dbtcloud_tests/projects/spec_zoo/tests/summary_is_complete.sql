{{ config(meta={'dagster': {'ref': {'name': 'ledger_summary'}}}) }}
select o.order_id
from {{ ref('orders') }} as o
left join {{ ref('ledger_summary') }} as s on s.order_id = o.order_id
where s.order_id is null

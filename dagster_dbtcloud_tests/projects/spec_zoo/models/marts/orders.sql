select o.order_id, o.customer_id, cast(coalesce(t.total, 0) as double) as total
from {{ ref('stg_orders') }} as o
left join {{ ref('eph_order_totals') }} as t on t.order_id = o.order_id

select
    orders.order_id,
    orders.customer_id,
    orders.ordered_at,
    orders.status,
    coalesce(amounts.payments, 0) as payments,
    coalesce(amounts.amount, 0) as amount
    {%- if var('break_orders') %},
    amounts.no_such_column
    {%- endif %}
from {{ ref('stg_orders') }} as orders
left join {{ ref('int_order_amounts') }} as amounts
    on orders.order_id = amounts.order_id

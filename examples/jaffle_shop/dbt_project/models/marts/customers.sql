with order_totals as (

    select
        customer_id,
        count(*) as orders,
        min(ordered_at) as first_ordered_at,
        max(ordered_at) as last_ordered_at,
        sum(amount) as lifetime_value
    from {{ ref('orders') }}
    where status <> 'returned'
    group by customer_id

)

select
    customers.customer_id,
    customers.customer_name,
    customers.city,
    customers.joined_on,
    coalesce(totals.orders, 0) as orders,
    totals.first_ordered_at,
    totals.last_ordered_at,
    coalesce(totals.lifetime_value, 0)
        {%- if var('spoil_customers') %} - 20 {%- endif %} as lifetime_value
from {{ ref('stg_customers') }} as customers
left join order_totals as totals
    on customers.customer_id = totals.customer_id

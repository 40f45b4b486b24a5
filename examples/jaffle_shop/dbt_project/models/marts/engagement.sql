with visits as (

    select
        customer_id,
        count(*) as days,
        sum(pages) as pages
    from {{ source('web', 'visits') }}
    group by customer_id

)

select
    customers.customer_id,
    customers.orders,
    coalesce(visits.days, 0) as visit_days,
    coalesce(visits.pages, 0) as pages,
    1.0 * customers.orders / nullif(visits.days, 0) as orders_per_visit_day
from {{ ref('customers') }} as customers
left join visits
    on customers.customer_id = visits.customer_id

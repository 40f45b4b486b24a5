select
    city,
    count(*) as customers,
    sum(orders) as orders,
    sum(lifetime_value) as sales
from {{ ref('customers') }}
group by city

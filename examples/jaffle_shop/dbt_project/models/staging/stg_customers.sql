select
    id as customer_id,
    first_name || ' ' || last_name as customer_name,
    city,
    joined_on
from {{ ref('raw_customers') }}

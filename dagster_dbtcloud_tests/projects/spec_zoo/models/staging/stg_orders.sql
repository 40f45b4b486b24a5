select id as order_id, customer_id, lower(status) as status, cast(ordered_at as date) as ordered_at
from {{ source('raw', 'raw_orders') }}

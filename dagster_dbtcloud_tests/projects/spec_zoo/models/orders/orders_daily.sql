select ordered_at, count(*) as orders from {{ ref('stg_orders') }} group by ordered_at

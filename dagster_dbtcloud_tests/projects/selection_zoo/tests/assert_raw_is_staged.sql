select id from {{ source('raw', 'raw_orders') }} except select id from {{ ref('stg_orders') }}

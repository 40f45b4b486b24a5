select * from {{ ref('stg_sub') }}

{{ config(materialized='incremental', unique_key='visited_on') }}

select
    visited_on,
    count(distinct customer_id) as customers,
    sum(pages) as pages
from {{ source('web', 'visits') }}
{% if is_incremental() %}
-- The newest day again: the loader may have replaced it.
where visited_on >= (select coalesce(max(visited_on), cast('1900-01-01' as date)) from {{ this }})
{% endif %}
group by visited_on

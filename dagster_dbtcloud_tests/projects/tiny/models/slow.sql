{{ config(materialized='table') }}
select sum(sin(range)) as n
from range({{ var('slow_rows', env_var('DBT_TINY_SLOW_ROWS', '0')) }})

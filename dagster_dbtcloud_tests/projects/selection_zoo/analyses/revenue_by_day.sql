{{ config(tags=['adhoc']) }}
select * from {{ ref('orders') }}

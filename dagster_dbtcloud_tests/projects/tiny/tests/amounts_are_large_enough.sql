{{ config(severity=var('amount_severity')) }}
select * from {{ ref('orders') }} where amount < {{ var('min_amount') }}

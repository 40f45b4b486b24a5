{{ config(severity='warn', meta={'description': 'Orders are never placed in the future.'}) }}
select * from {{ ref('stg_orders') }} where ordered_at > current_date + 36500

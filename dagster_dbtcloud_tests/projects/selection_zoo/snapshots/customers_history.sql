{% snapshot customers_history %}
{{ config(unique_key='id', strategy='check', check_cols='all', schema='snapshots') }}
select * from {{ ref('customers') }}
{% endsnapshot %}

{{ config(materialized='incremental', unique_key='ordered_at', on_schema_change='append_new_columns', group='finance', access='private') }}
select ordered_at, sum(amount) as amount from {{ ref('orders') }} group by all

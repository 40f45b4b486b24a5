{{ config(alias='stg_dotted_name') }}
select 1 as id union all select id from {{ source('raw_events', 'clicks') }}

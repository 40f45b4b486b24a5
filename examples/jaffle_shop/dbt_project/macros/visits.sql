{# The table behind source('web', 'visits'). A loader fills it, one day at a time. #}

{% macro visits_table() %}
  {% do return(api.Relation.create(database=target.database, schema=target.schema, identifier='web_visits')) %}
{% endmacro %}


{% macro create_visits_table() %}
  {% if execute and flags.WHICH in ('build', 'run', 'test', 'seed', 'snapshot', 'run-operation') %}
    {% set table = visits_table() %}
    {% if adapter.get_relation(table.database, table.schema, table.identifier) is none %}
      {% do adapter.create_schema(table) %}
      {% do run_query(
        'create table ' ~ table ~ ' (visited_on date, customer_id ' ~ dbt.type_int()
        ~ ', pages ' ~ dbt.type_int() ~ ', loaded_at ' ~ dbt.type_timestamp() ~ ')'
      ) %}
    {% endif %}
  {% endif %}
{% endmacro %}


{#
  Replace the visits of one day: loading a day twice leaves it once.

  dbt run-operation load_visits --args '{day: "2026-06-01", visits: [[3, 5], [8, 1]]}'

  day     YYYY-MM-DD
  visits  a list of [customer_id, pages]
#}
{% macro load_visits(day, visits) %}
  {% do create_visits_table() %}
  {% set table = visits_table() %}
  {% set date_of_day = "cast('" ~ modules.datetime.date.fromisoformat(day | string) ~ "' as date)" %}
  {% set rows = [] %}
  {% for customer_id, pages in visits %}
    {% do rows.append('(' ~ [date_of_day, customer_id | int, pages | int, 'current_timestamp'] | join(', ') ~ ')') %}
  {% endfor %}
  {% call statement('delete_day', auto_begin=true) %}
    delete from {{ table }} where visited_on = {{ date_of_day }}
  {% endcall %}
  {% if rows %}
    {% call statement('insert_day', auto_begin=true) %}
      insert into {{ table }} (visited_on, customer_id, pages, loaded_at) values {{ rows | join(', ') }}
    {% endcall %}
  {% endif %}
  {% do adapter.commit() %}
  {% do log('Loaded ' ~ rows | length ~ ' visits of ' ~ day, info=true) %}
{% endmacro %}

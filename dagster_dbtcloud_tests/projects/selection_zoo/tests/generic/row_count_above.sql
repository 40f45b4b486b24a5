{% test row_count_above(model, minimum) %}
select * from (select count(*) as n from {{ model }}) where n <= {{ minimum }}
{% endtest %}

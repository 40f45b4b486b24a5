-- depends_on: {{ ref('raw_orders') }}
select
    id,
    customer,
    amount,
    {% if var('break_orders') %}no_such_column,{% endif %}
    cast(ordered_on as date) as ordered_on
from {{ source('raw', 'raw_orders') }}

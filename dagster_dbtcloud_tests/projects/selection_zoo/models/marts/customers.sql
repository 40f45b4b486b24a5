{{ config(group='crm', access='protected') }}
select c.id, c.name, count(*) as orders
from {{ ref('stg_customers') }} c
left join {{ ref('orders') }} o on o.customer_id = c.id
group by all

select c.*, n.name as country
from {{ ref('dim_customers', v=1) }} as c
cross join (select name from {{ ref('countries') }} where code = 'NO') as n

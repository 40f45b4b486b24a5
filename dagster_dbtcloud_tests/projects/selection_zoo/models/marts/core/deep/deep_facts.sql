{{ config(tags=['weekly'], meta={'owner': 'deep team', 'critical': false}) }}
select f.*, s.id as shared_id
from {{ ref('core_facts') }} f
cross join {{ ref('helper', 'shared') }} s

select * from {{ ref('helper', 'shared') }}

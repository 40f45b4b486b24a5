select order_id, total from {{ ref('ledger') }}

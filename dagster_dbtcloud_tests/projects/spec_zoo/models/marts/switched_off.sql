select 1 as nothing

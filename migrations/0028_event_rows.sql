-- why: a month's refill tells thousands of shops at once, and one row can hold what it tells them. In a migration of its own: a
-- frontend reads events and then writes what they ask of it in one transaction, and would meet one that holds both.

alter table event
    alter shop_id drop not null,
    -- One row for the refills of many shops, in this order; its own shop_id is null then.
    add column shop_ids  uuid[],
    add column granted   bigint[],
    add column available bigint[],
    -- Ids hardly get smaller.
    alter column shop_ids set storage external,
    -- Rows there are fit it.
    add constraint event_is_of_one_or_many check (case when shop_id is null
        then kind = 'refill_done' and num_nonnulls(shop_ids, granted, available) = 3
             and cardinality(granted) = cardinality(shop_ids) and cardinality(available) = cardinality(shop_ids)
        else num_nonnulls(shop_ids, granted, available) = 0 end) not valid;

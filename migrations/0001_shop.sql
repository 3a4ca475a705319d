-- why: the merchants, the accounts they send from, and the people they may send to.

create type channel as enum ('app', 'line', 'messenger', 'whatsapp', 'sms', 'email');

create table shop (
    id                   uuid primary key,
    name                 text not null check (name <> ''),
    url                  text not null,
    time_zone            text not null default 'Asia/Taipei',
    plan                 text not null,
    anchor_day           smallint not null default 1 check (anchor_day between 1 and 31),
    state                text not null default 'active' check (state in ('active', 'suspended')),
    -- One planning at a time per shop: two plans of one shop must see each other's deliveries.
    planning_broadcast   uuid,
    planning_lease_until timestamptz,
    created_at           timestamptz not null default now()
);

create table sender (
    id           uuid primary key,
    -- null: the sender belongs to the platform and is shared by every shop.
    shop_id      uuid references shop,
    channel      channel not null,
    name         text not null,
    is_primary   boolean not null default false,
    state        text not null default 'connected' check (state in ('connected', 'paused', 'disconnected')),
    state_reason text,
    -- Sealed with a versioned key; never readable without the process' secret.
    credentials  bytea not null,
    -- null: the provider's published limit (config, section limit).
    rate_per_sec double precision check (rate_per_sec > 0),
    created_at   timestamptz not null default now()
);
create unique index sender_primary on sender (shop_id, channel) nulls not distinct where is_primary;

create table customer (
    id          bigint generated always as identity primary key,
    shop_id     uuid not null references shop,
    -- The shop front's own id for this person.
    external_id text,
    first_name  text not null default '',
    last_name   text not null default '',
    tags        text[] not null default '{}',
    opted_out   boolean not null default false,
    -- A tester receives test sends and is in no audience.
    is_tester   boolean not null default false,
    -- When the names last changed. A send that was interrupted before then cannot be repeated: its body would differ.
    renamed_at  timestamptz,
    created_at  timestamptz not null default now(),
    unique (shop_id, external_id)
);
create function customer_renamed() returns trigger language plpgsql as $$
begin
    new.renamed_at := clock_timestamp();
    return new;
end $$;
create trigger customer_renamed before update of first_name, last_name on customer for each row
    when ((old.first_name, old.last_name) is distinct from (new.first_name, new.last_name)) execute function customer_renamed();
create index customer_of_shop on customer (shop_id, id);

create table address (
    id               bigint generated always as identity primary key,
    shop_id          uuid not null references shop,
    sender_id        uuid not null references sender,
    customer_id      bigint not null references customer on delete cascade,
    address          text not null check (address <> ''),
    state            text not null default 'active' check (state in ('active', 'opted_out', 'suppressed')),
    state_reason     text,
    state_changed_at timestamptz,
    -- The one planning uses: for the app the newest valid token.
    is_current       boolean not null default true,
    -- Two customers of a shop with one mailbox are twins: both carry the smallest address id of the group. Null for
    -- nearly everybody, which keeps the uniqueness of (broadcast, sender, address) free for them.
    twin_of          bigint,
    last_inbound_at  timestamptz,
    created_at       timestamptz not null default now()
);
create unique index address_current on address (sender_id, customer_id) where is_current;
create unique index address_once on address (sender_id, address, customer_id);
create index address_twins on address (twin_of) where twin_of is not null;
-- With the sender, so that planning's join over a range of customers reads only the addresses it wants.
create index address_of_customer on address (customer_id, sender_id);

create function address_mark_twins() returns trigger language plpgsql as $$
begin
    -- Two transactions that add the same mailbox at once would not see each other: address writers of one shop queue.
    perform pg_advisory_xact_lock(hashtextextended('address:' || s.shop_id::text, 0))
       from (select distinct shop_id from added order by 1) s;
    update address a
       set twin_of = g.first
      from (select t.sender_id, t.shop_id, t.address, min(t.id) as first
              from (select distinct sender_id, shop_id, address from added) n
              join address t using (sender_id, address, shop_id)
             group by 1, 2, 3
            having count(*) > 1) g
     where a.sender_id = g.sender_id and a.address = g.address and a.shop_id = g.shop_id
       and a.twin_of is distinct from g.first;
    return null;
end $$;
create trigger address_twins after insert on address
    referencing new table as added for each statement execute function address_mark_twins();

-- Records that this customer has this address on this sender now; it becomes the current one.
create function put_address(p_sender uuid, p_customer bigint, p_address text) returns bigint language plpgsql as $$
declare v_id bigint;
begin
    -- The lock the trigger takes, before any row: two changes at once would wait for each other, or both be current.
    perform pg_advisory_xact_lock(hashtextextended('address:' || shop_id::text, 0)) from customer where id = p_customer;
    update address set is_current = false
     where sender_id = p_sender and customer_id = p_customer and is_current and address <> p_address;
    insert into address (shop_id, sender_id, customer_id, address)
    select shop_id, p_sender, p_customer, p_address from customer where id = p_customer
    on conflict (sender_id, address, customer_id) do update set is_current = true
    returning id into v_id;
    return v_id;
end $$;

-- Stops sending to one address: state is `opted_out` (the person said so) or `suppressed` (the provider said so).
-- Where the customer has another valid one on the same sender, the newest takes its place. Running it twice is harmless.
create function close_address(p_address bigint, p_state text, p_reason text) returns boolean language plpgsql as $$
declare v address;
begin
    update address set state = p_state, state_reason = p_reason, state_changed_at = now()
     where id = p_address and state <> p_state and not (state = 'opted_out' and p_state = 'suppressed')
    returning * into v;
    if not found then
        return exists (select from address where id = p_address);
    end if;
    if v.is_current and exists (select from address o where o.sender_id = v.sender_id and o.customer_id = v.customer_id
                                   and o.id <> v.id and o.state = 'active') then
        update address set is_current = false where id = v.id;
        update address set is_current = true
         where id = (select o.id from address o where o.sender_id = v.sender_id and o.customer_id = v.customer_id
                        and o.id <> v.id and o.state = 'active' order by o.created_at desc, o.id desc limit 1);
    end if;
    return true;
end $$;

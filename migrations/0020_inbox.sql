-- why: what customers write must become conversations a shop can answer: every event once, and the same result in whatever
-- order the providers tell it. So nothing here depends on what came first: times are compared with the greatest known, a change to
-- a message that has not come yet waits in the message's own row, and counts move only when a row is new.

-- New tables point at the first three, and the last gets columns that the old program does not read.
lock table shop, sender, customer in share row exclusive mode;
lock table address in access exclusive mode;
alter table address
    -- What the provider calls the person, and when it said so.
    add column profile_name    text,
    add column profile_name_at timestamptz;

-- Each shop's switches; a shop without a row has the defaults.
create table inbox_setting (
    shop_id     uuid primary key references shop on delete cascade,
    auto_assign boolean not null default false
);

create table working_hours (
    id        bigint generated always as identity primary key,
    shop_id   uuid not null references shop on delete cascade,
    name      text not null check (name <> ''),
    time_zone text not null check (time_zone <> ''),
    -- Days on which a shift begins: 1 Monday to 7 Sunday.
    days      smallint[] not null check (days <@ '{1,2,3,4,5,6,7}' and cardinality(days) between 1 and 7),
    starts_at time not null,
    -- Not after `starts_at`: the shift ends on the following day.
    ends_at   time not null,
    unique (shop_id, name)
);

create table staff (
    id               bigint generated always as identity primary key,
    shop_id          uuid not null references shop on delete cascade,
    -- The frontend's own id for this person.
    external_id      text not null check (external_id <> ''),
    name             text not null default '',
    -- Since when this person may send messages; null: may not.
    may_send_since   timestamptz,
    working_hours_id bigint references working_hours on delete set null,
    -- Null: never got a conversation, by hand or by itself.
    last_assigned_at timestamptz,
    unique (shop_id, external_id)
);

create table conversation (
    id                bigint generated always as identity primary key,
    shop_id           uuid not null references shop,
    sender_id         uuid not null references sender,
    customer_id       bigint not null references customer on delete cascade,
    -- A chat on a channel, the message page of the shop's front, or the messages beside one order.
    kind              text not null check (kind in ('social', 'store', 'order')),
    -- Its number at the shop.
    order_number      text not null default '' check ((kind = 'order') = (order_number <> '')),
    starred           boolean not null default false,
    archived          boolean not null default false,
    marked_unread     boolean not null default false,
    -- The newest message a person has seen, by id: a message that came later was not seen, whenever it was written.
    read_up_to        bigint not null default 0,
    -- Inbound messages behind `read_up_to` that were not taken back. Shown is at least 1 while `marked_unread`.
    unread            int not null default 0 check (unread >= 0),
    has_phone         boolean not null default false,
    from_ad           boolean not null default false,
    assigned_staff_id bigint references staff on delete set null,
    last_message_at   timestamptz,
    last_inbound_at   timestamptz,
    created_at        timestamptz not null default now(),
    unique (sender_id, customer_id, kind, order_number)
);
create index conversation_of_customer on conversation (customer_id);
create index conversation_newest on conversation (shop_id, last_message_at desc);

create table message (
    id              bigint generated always as identity primary key,
    sender_id       uuid not null,
    -- The provider's id of it, or one made of the event where it has none.
    provider_id     text not null,
    -- Null: the message has not come yet, but the customer changed it or took it back already.
    conversation_id bigint references conversation on delete cascade,
    direction       text check (direction in ('in', 'out')),
    sent_at         timestamptz,
    text            text,
    -- [{"kind", "label"?, "url"? | "provider_id"?}]
    attachments     jsonb not null default '[]',
    reply_to        text,
    -- LINE: answers once, within about a minute.
    reply_token     text,
    -- How a guest of the shop's front wants to be answered: {"email"?, "phone"?}.
    contact         jsonb,
    -- Numbers found in the text of a customer, as written and in one form.
    phones_raw      text[] not null default '{}',
    phones          text[] not null default '{}',
    edited_at       timestamptz,
    unsent_at       timestamptz,
    stored_at       timestamptz not null default now(),
    -- Only while the message has not come: whose it is, so that an erasure finds it.
    address         text,
    check (conversation_id is null or address is null),
    check ((conversation_id is null) = (direction is null) and (conversation_id is null) = (sent_at is null)),
    check (direction is distinct from 'out' or phones = '{}'),
    check (unsent_at is null or (text is null and attachments = '[]' and phones = '{}' and phones_raw = '{}')),
    unique (sender_id, provider_id)
);
create index message_of_conversation on message (conversation_id, id);
create index message_with_phone on message using gin (phones) where phones <> '{}';
create index message_not_come on message (stored_at) where conversation_id is null;

-- Each event once. The key is a digest: a provider's key may hold a person's id, and this outlives an erasure.
create table webhook_event (
    sender_id uuid not null,
    key       uuid not null,
    kind      text not null,
    told_at   timestamptz not null default now(),
    primary key (sender_id, key)
);
-- Rows lie in the order they came, so this finds old ones and costs next to nothing.
create index webhook_event_told on webhook_event using brin (told_at);

-- The latest ten distinct advertisements a conversation came from.
create table referral (
    conversation_id bigint not null references conversation on delete cascade,
    ad_id           text not null,
    title           text,
    url             text,
    reference       text,
    referred_at     timestamptz not null,
    primary key (conversation_id, ad_id)
);

create table assignment (
    id              bigint generated always as identity primary key,
    conversation_id bigint not null references conversation on delete cascade,
    -- Null: taken from whoever had it.
    staff_id        bigint references staff on delete cascade,
    -- Null: by itself.
    assigned_by     text,
    assigned_at     timestamptz not null default now()
);
create index assignment_of_conversation on assignment (conversation_id, id);

-- What customers attach, until it is fetched: the providers' links expire.
create table media (
    id           bigint generated always as identity primary key,
    message_id   bigint not null references message on delete cascade,
    position     smallint not null,
    sender_id    uuid not null,
    kind         text not null,
    url          text,
    provider_id  text,
    state        text not null default 'pending' check (state in ('pending', 'stored', 'failed')),
    -- When it is to be tried (again); null: nothing is to be done.
    due_at       timestamptz default now(),
    attempts     int not null default 0,
    -- Why it failed, or the last attempt did; never an address.
    reason       text,
    stored_as    text,
    content_type text,
    size_bytes   bigint,
    check ((url is null) <> (provider_id is null)),
    check ((state = 'stored') = (stored_as is not null) and (state = 'pending') = (due_at is not null)),
    unique (message_id, position)
);
create index media_due on media (due_at) where due_at is not null;

-- Files whose message is gone; a worker deletes them and then the row.
create table media_to_delete (
    stored_as text primary key,
    due_at    timestamptz not null default now()
);
create function media_gone() returns trigger language plpgsql as $$
begin
    -- One in hand may be stored already: its name is known beforehand.
    insert into media_to_delete (stored_as) select sender_id || '/' || id from gone where attempts > 0 on conflict do nothing;
    return null;
end $$;
create trigger media_gone after delete on media
    referencing old table as gone for each statement execute function media_gone();

-- One event as `apply_events` takes it; `what` is one of message, postback, echo, edited, unsent, followed, unfollowed,
-- consent, referred, receipt, complained, unknown.
create type inbox_event as (
    n            int,
    key          uuid,
    at           timestamptz,
    address      text,
    what         text,
    thread       text,
    order_number text,
    message_id   text,
    text         text,
    attachments  jsonb,
    reply_to     text,
    reply_token  text,
    contact      jsonb,
    profile_name text,
    phones_raw   text[],
    phones       text[],
    customer_id  bigint
);

-- Makes a customer with an address on this sender for each of these addresses that has none. Never merges anybody.
create function meet_customers(p_sender uuid, p_shop uuid, p_addresses text[]) returns void language plpgsql as $$
begin
    -- The lock every writer of addresses takes: of two who meet one person at once the second finds what the first made.
    perform pg_advisory_xact_lock(hashtextextended('address:' || p_shop::text, 0));
    with met as materialized (
        select u.address, nextval(pg_get_serial_sequence('customer', 'id')) as id
          from unnest(p_addresses) as u (address)
         where not exists (select from address a where a.sender_id = p_sender and a.address = u.address)
    ), made as (
        insert into customer (id, shop_id) overriding system value select id, p_shop from met order by id returning id
    )
    insert into address (shop_id, sender_id, customer_id, address)
    select p_shop, p_sender, m.id, m.address from met m join made on made.id = m.id;
end $$;

-- Records events of one sender and moves customers, conversations and messages. Returns one row for each event that is
-- new: its conversation, where it has one, and whether somebody should be found for that.
--
-- Called once in a transaction, before anything else is locked: whoever applies takes changes, events, the shop's
-- addresses, addresses, conversations, messages, in this order and each in the order of its key.
create function apply_events(p_sender uuid, p_events jsonb)
returns table (n int, conversation_id bigint, customer_id bigint, unassigned boolean) language plpgsql as $$
#variable_conflict use_column
declare
    v_shop uuid;
    v_channel channel;
    e inbox_event[];
    v_keys uuid[];
    v_addresses text[];
    v_touched bigint[];
    v_fresh bigint[];
    v_changed bigint[];
begin
    select array_agg(x order by x.n) into e from jsonb_populate_recordset(null::inbox_event, p_events) x;
    select s.shop_id, s.channel into strict v_shop, v_channel from sender s where s.id = p_sender;

    -- Of two batches that both change messages, each could hold what the other waits for.
    if exists (select from unnest(e) x where x.what in ('edited', 'unsent')) then
        perform pg_advisory_xact_lock(hashtextextended('inbox-changes:' || p_sender::text, 0));
    end if;

    with told as (
        insert into webhook_event (sender_id, key, kind)
        select distinct on (x.key) p_sender, x.key, x.what from unnest(e) x order by x.key, x.n
        on conflict do nothing returning key
    )
    select array_agg(key) into v_keys from told;
    if v_keys is null then
        return;
    end if;
    select array_agg(x order by x.n) into e
      from (select distinct on (y.key) y.* from unnest(e) y where y.key = any (v_keys) order by y.key, y.n) x;

    -- Whoever wrote, was written to or follows is a customer from now on. A shop front tells of its app's customers by
    -- its own ids: those are no addresses, a push to one would reach nobody.
    if v_shop is not null and v_channel = 'app' then
        insert into customer (shop_id, external_id)
        select distinct v_shop, x.address from unnest(e) x
         where x.address is not null and x.what in ('message', 'postback', 'echo', 'referred')
           and not exists (select from customer c where c.shop_id = v_shop and c.external_id = x.address)
         order by x.address
        on conflict do nothing;
    elsif v_shop is not null then
        select array_agg(distinct x.address) into v_addresses from unnest(e) x
         where x.address is not null
           and x.what in ('message', 'postback', 'echo', 'followed', 'referred')
           and not exists (select from address a where a.sender_id = p_sender and a.address = x.address);
        if v_addresses is not null then
            perform meet_customers(p_sender, v_shop, v_addresses);
        end if;
    end if;
    -- Two customers may share an address: the one who had it first is meant. On a sender of the platform the address may be
    -- known to several shops: the one whose message reached it last is answered. To know a number is not enough, or whoever
    -- imports a list would read what its people write to others.
    select array_agg((x.n, x.key, x.at, x.address, x.what, x.thread, x.order_number, x.message_id, x.text,
                      x.attachments, x.reply_to, x.reply_token, x.contact,
                      x.profile_name, x.phones_raw, x.phones,
                      case when v_channel = 'app'
                           then (select c.id from customer c where c.shop_id = v_shop and c.external_id = x.address)
                           when v_shop is null then (
                                select a.customer_id from address a
                                 cross join lateral (
                                    select max(r.settled_at) as sent_at from lane l
                                      join delivery_result r on r.broadcast_id = l.broadcast_id and r.channel = l.channel
                                           and r.customer_id = a.customer_id
                                     where l.sender_id = p_sender and l.shop_id = a.shop_id
                                       and r.state in ('accepted', 'delivered', 'read', 'unknown')) s
                                 where a.sender_id = p_sender and a.address = x.address and s.sent_at is not null
                                 order by s.sent_at desc, a.id limit 1)
                           else (select a.customer_id from address a where a.sender_id = p_sender and a.address = x.address
                                  order by a.id limit 1) end)::inbox_event order by x.n)
      into e from unnest(e) x;

    -- The windows and the name; no clock of a provider opens a window beyond now.
    with latest as (
        select y.address, min(y.customer_id) as meant,
               max(least(y.at, now())) filter (where y.what in ('message', 'postback')) as inbound_at,
               max(y.at) filter (where y.profile_name <> '') as name_at,
               (array_agg(y.profile_name order by y.at desc, y.profile_name desc) filter (where y.profile_name <> ''))[1] as name
          from unnest(e) y
         where v_channel <> 'app' and y.address is not null and y.what in ('message', 'postback')
         group by y.address
    ), mine as materialized (
        select a.id, a.customer_id, a.profile_name as old_name, l.inbound_at, l.name_at, l.name,
               (l.name_at, l.name) > (coalesce(a.profile_name_at, '-infinity'), coalesce(a.profile_name, '')) as renamed
          from latest l
          -- Another shop's window on a sender of the platform stays shut.
          join address a on a.sender_id = p_sender and a.address = l.address and (v_shop is not null or a.customer_id = l.meant)
         where a.last_inbound_at < l.inbound_at or (a.last_inbound_at is null and l.inbound_at is not null)
            or (l.name_at, l.name) > (coalesce(a.profile_name_at, '-infinity'), coalesce(a.profile_name, ''))
         order by a.id for update of a
    ), moved as (
        update address a
           set last_inbound_at = greatest(a.last_inbound_at, m.inbound_at),
               profile_name = case when m.renamed then m.name else a.profile_name end,
               profile_name_at = case when m.renamed then m.name_at else a.profile_name_at end
          from mine m where a.id = m.id
    )
    -- A name that a person or the shop front gave is never replaced: only none, or what the provider said before.
    update customer c set first_name = m.name
      from mine m
     where m.renamed and c.id = m.customer_id and c.last_name = '' and c.first_name in ('', m.old_name) and c.first_name <> m.name;

    insert into conversation (shop_id, sender_id, customer_id, kind, order_number)
    select distinct c.shop_id, p_sender, x.customer_id, x.thread, x.order_number
      from unnest(e) x join customer c on c.id = x.customer_id
     where x.what in ('message', 'postback', 'echo', 'referred')
       and not exists (select from conversation t where t.sender_id = p_sender and t.customer_id = x.customer_id and t.kind = x.thread and t.order_number = x.order_number)
     order by x.customer_id, x.thread, x.order_number
    on conflict do nothing;
    select array_agg(t.id) into v_touched from (
        select t.id from conversation t
         where t.id in (select t.id from unnest(e) x
                          join conversation t on t.sender_id = p_sender and t.customer_id = x.customer_id and t.kind = x.thread and t.order_number = x.order_number
                         where x.what in ('message', 'postback', 'echo', 'referred')
                        union all
                        select m.conversation_id from unnest(e) x
                          join message m on m.sender_id = p_sender and m.provider_id = x.message_id
                         where x.what in ('edited', 'unsent'))
         order by t.id for no key update) t;

    -- A row that waits for its message has what was changed meanwhile; it becomes the newest of its conversation.
    with fresh as (
        insert into message as m (sender_id, provider_id, conversation_id, direction, sent_at, text, attachments, reply_to, reply_token,
                             contact, phones_raw, phones)
        select distinct on (x.message_id) p_sender, x.message_id, t.id, case x.what when 'echo' then 'out' else 'in' end,
               least(x.at, now()), x.text, coalesce(x.attachments, '[]'), x.reply_to, x.reply_token,
               x.contact, coalesce(x.phones_raw, '{}'), coalesce(x.phones, '{}')
          from unnest(e) x
          join conversation t on t.sender_id = p_sender and t.customer_id = x.customer_id and t.kind = x.thread and t.order_number = x.order_number
         where x.what in ('message', 'postback', 'echo')
         order by x.message_id, x.at, x.key
        on conflict (sender_id, provider_id) do update
           set id = default, address = null, conversation_id = excluded.conversation_id, direction = excluded.direction, sent_at = excluded.sent_at,
               stored_at = now(), reply_to = excluded.reply_to, reply_token = excluded.reply_token, contact = excluded.contact,
               text = case when m.unsent_at is not null then null when m.edited_at is not null then m.text else excluded.text end,
               attachments = case when m.unsent_at is null then excluded.attachments else '[]' end,
               -- What the shop wrote has none, but whose a change was is only known now.
               phones_raw = case when excluded.direction = 'out' then '{}' when m.unsent_at is null and m.edited_at is null
                                 then excluded.phones_raw else m.phones_raw end,
               phones = case when excluded.direction = 'out' then '{}' when m.unsent_at is null and m.edited_at is null
                             then excluded.phones else m.phones end
         where m.conversation_id is null
        returning m.id
    )
    select array_agg(id) into v_fresh from fresh;

    with told as (
        select x.message_id, max(x.address) as address, max(x.at) filter (where x.what = 'edited') as edited_at, min(x.at) filter (where x.what = 'unsent') as unsent_at,
               (array_agg(x order by x.at desc, x.text desc) filter (where x.what = 'edited'))[1] as edit
          from unnest(e) x where x.what in ('edited', 'unsent') group by 1
    ), changed as (
        insert into message as m (sender_id, provider_id, address, text, phones_raw, phones, edited_at, unsent_at)
        select p_sender, message_id, address, case when unsent_at is null then (edit).text end,
               case when unsent_at is null then coalesce((edit).phones_raw, '{}') else '{}' end,
               case when unsent_at is null then coalesce((edit).phones, '{}') else '{}' end, edited_at, unsent_at
          from told order by message_id
        on conflict (sender_id, provider_id) do update
           set edited_at = greatest(m.edited_at, excluded.edited_at), unsent_at = least(m.unsent_at, excluded.unsent_at),
               attachments = case when coalesce(m.unsent_at, excluded.unsent_at) is null then m.attachments else '[]' end,
               (text, phones_raw, phones) = (
                   select case when gone then null when later then excluded.text else m.text end,
                          case when gone or m.direction = 'out' then '{}' when later then excluded.phones_raw else m.phones_raw end,
                          case when gone or m.direction = 'out' then '{}' when later then excluded.phones else m.phones end
                     from (select coalesce(m.unsent_at, excluded.unsent_at) is not null as gone,
                                  excluded.edited_at is not null
                                  and (m.edited_at is null or (excluded.edited_at, excluded.text) > (m.edited_at, m.text)) as later) how)
        returning m.id, m.conversation_id, m.unsent_at
    )
    select array_agg(id) filter (where conversation_id is not null) into v_changed from changed;
    if v_changed is not null then
        delete from media d using message m where m.id = any (v_changed) and m.unsent_at is not null and d.message_id = m.id;
    end if;

    insert into media (message_id, position, sender_id, kind, url, provider_id)
    select m.id, a.position - 1, p_sender, coalesce(a.one ->> 'kind', 'other'), a.one ->> 'url', a.one ->> 'provider_id'
      from message m, jsonb_array_elements(m.attachments) with ordinality as a (one, position)
     where m.id = any (v_fresh) and m.direction = 'in' and a.one ?| '{url,provider_id}';

    update conversation t
       set unread = t.unread + f.unread, archived = false, has_phone = t.has_phone or f.has_phone,
           last_message_at = greatest(t.last_message_at, f.message_at), last_inbound_at = greatest(t.last_inbound_at, f.inbound_at)
      from (select m.conversation_id, count(*) filter (where m.direction = 'in' and m.unsent_at is null)::int as unread,
                   bool_or(m.phones <> '{}') as has_phone, max(m.sent_at) as message_at,
                   max(m.sent_at) filter (where m.direction = 'in') as inbound_at
              from message m where m.id = any (v_fresh) group by 1) f
     where t.id = f.conversation_id;
    -- What was changed may have been unread, or the only one with a number: these few are counted anew.
    -- Locked by a statement of their own: one that waited would count what it saw before it waited.
    if v_changed is not null then
        perform from conversation t where t.id in (select m.conversation_id from message m where m.id = any (v_changed))
          order by t.id for no key update;
        update conversation t
           set unread = (select count(*) from message m where m.conversation_id = t.id and m.id > t.read_up_to
                            and m.direction = 'in' and m.unsent_at is null),
               has_phone = exists (select from message m where m.conversation_id = t.id and m.phones <> '{}')
         where t.id in (select m.conversation_id from message m where m.id = any (v_changed));
    end if;

    return query
        select x.n, t.id, x.customer_id,
               t.assigned_staff_id is null and t.kind = 'social' and x.what in ('message', 'postback')
               and exists (select from inbox_setting s where s.shop_id = t.shop_id and s.auto_assign)
          from unnest(e) x
          left join conversation t on t.sender_id = p_sender and t.customer_id = x.customer_id and t.kind = x.thread and t.order_number = x.order_number
               and x.what in ('message', 'postback', 'echo', 'referred')
         order by x.n;
end $$;

-- A person has seen the messages up to this one (by default all that are stored). The mark "unread" goes with it.
create function read_conversation(p_conversation bigint, p_up_to bigint default null) returns void language plpgsql as $$
declare v_newest bigint;
begin
    perform from conversation where id = p_conversation for no key update;
    select max(m.id) into v_newest from message m where m.conversation_id = p_conversation;
    update conversation t set marked_unread = false, read_up_to = greatest(t.read_up_to, least(coalesce(p_up_to, v_newest), v_newest))
     where t.id = p_conversation;
    update conversation t
       set unread = (select count(*) from message m where m.conversation_id = t.id and m.id > t.read_up_to
                        and m.direction = 'in' and m.unsent_at is null)
     where t.id = p_conversation;
end $$;

-- Gives a conversation to a staff member, or to nobody; by a person, unless p_by is null. False: there is no such conversation,
-- or no such staff member in its shop.
create function assign_conversation(p_conversation bigint, p_staff bigint, p_by text) returns boolean language plpgsql as $$
declare v_shop uuid;
begin
    select shop_id into v_shop from conversation where id = p_conversation for no key update;
    -- Never before the last one of the shop, however long this transaction waited: "longest ago" goes by it.
    update staff s
       set last_assigned_at = (select greatest(now(), max(o.last_assigned_at) + interval '1 microsecond') from staff o where o.shop_id = v_shop)
     where s.id = p_staff and s.shop_id = v_shop;
    if v_shop is null or (p_staff is not null and not found) then
        return false;
    end if;
    update conversation set assigned_staff_id = p_staff where id = p_conversation;
    insert into assignment (conversation_id, staff_id, assigned_by) values (p_conversation, p_staff, p_by);
    return true;
end $$;

-- Forgets the raw requests that name this address on this sender: they may have come to any of the shop's senders on the
-- channel, where one callback address serves several accounts. One that is still being worked through would bring the
-- person back, and holds what others wrote.
create function forget_raw(p_sender uuid, p_address text) returns void language plpgsql as $$
declare
    -- A form body writes the plus of a phone number otherwise; that somebody is a guest we say, not the body.
    v_senders uuid[] := array(select o.id from sender s join sender o on o.channel = s.channel and o.shop_id is not distinct from s.shop_id
                               where s.id = p_sender);
    v_name bytea := convert_to(regexp_replace(p_address, '^([+]|guest:)', ''), 'UTF8');
begin
    if exists (select from webhook w join webhook_pending p on p.webhook_id = w.id
                where w.sender_id = any (v_senders) and p.failed_at is null and position(v_name in w.body) > 0) then
        raise exception 'a webhook that names this customer is being worked through'
            using errcode = 'object_in_use', hint = 'Erase the customer again in a few seconds.';
    end if;
    with gone as (
        delete from webhook w where w.sender_id = any (v_senders) and position(v_name in w.body) > 0 returning w.id
    )
    delete from webhook_pending where webhook_id in (select id from gone);
end $$;

-- Erases one person: profile, addresses, conversations with all that was written and attached, and the raw requests that
-- name them. Ledger, deliveries and counts keep the id. False: there is no such customer.
create function erase_customer(p_customer bigint) returns boolean language plpgsql as $$
declare a record; v_shop uuid; v_external text;
begin
    select shop_id, external_id into v_shop, v_external from customer where id = p_customer for update;
    if not found then
        return false;
    end if;
    for a in select sender_id, address from address where customer_id = p_customer
             union
             select s.id, v_external from sender s where s.shop_id = v_shop and s.channel = 'app' and v_external is not null
    loop
        perform forget_raw(a.sender_id, a.address);
        delete from message where sender_id = a.sender_id and conversation_id is null and address = a.address;
    end loop;
    delete from customer where id = p_customer;
    return true;
end $$;

-- Forgets which events were applied, and changes whose message never came, when they are older than p_days: providers tell
-- nothing again after so long. At most p_rows of each; how many went.
create function forget_events_applied(p_days int, p_rows int default 10000) returns bigint language sql as $$
    with events as (
        delete from webhook_event e
         where (e.sender_id, e.key) in (select o.sender_id, o.key from webhook_event o
                                         where o.told_at < now() - p_days * interval '1 day' limit p_rows)
        returning 1
    ), changes as (
        delete from message m where m.id in (select o.id from message o where o.conversation_id is null
                                               and o.stored_at < now() - p_days * interval '1 day' limit p_rows)
        returning 1
    )
    select (select count(*) from events) + (select count(*) from changes)
$$;

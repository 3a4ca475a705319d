-- why: an ingest job asked Postgres six times for one small webhook, and held its locks while it waited for each answer; people who were
-- new kept all other new ones of their shop waiting. And what a review of what came out found: words that two transactions said at
-- once missed each other, a START opened what a provider had called dead, and a person's change was undone by an old word.

lock table sender in share row exclusive mode;
lock table address in access exclusive mode;

alter table address
    -- The last words done to this row and the provider's times of them: each is done once, so what a person changes afterwards stays.
    add column wanted_done     boolean,
    add column wanted_done_at  timestamptz,
    add column follows_done    boolean,
    add column follows_done_at timestamptz,
    -- What a provider last said of an address that can never be reached: kept while the person has closed it, too, so that
    -- what comes of a STOP, a failure and a START does not depend on which was told first.
    add column dead_reason     text,
    add column dead_at         timestamptz;

alter table conversation
    -- A customer wrote, nobody has it, and nobody was at work: whoever comes to work gets it.
    add column awaits_staff boolean not null default false;
create index conversation_awaits_staff on conversation (shop_id, id) where awaits_staff;

-- When the customer first saw a message of the shop, where a shop front tells it.
alter table message add column read_at timestamptz;

-- A second account that the same credentials speak for: the Instagram account of a page. Null until a worker needed it, '' for none.
alter table sender add column other_account text;
create index sender_other_account on sender (channel, other_account) where other_account <> '';
drop index sender_account_unread;
create index sender_account_unread on sender (channel) where account is null or other_account is null;
create or replace function sender_account_is_unread() returns trigger language plpgsql as $$
begin
    new.account := null;
    new.other_account := null;
    return new;
end $$;

-- As before, and remembers what a provider said of an address that is closed already.
create or replace function close_address(p_address bigint, p_state text, p_reason text) returns boolean language plpgsql as $$
declare v address; v_dead boolean := p_state = 'suppressed' and p_reason is distinct from 'unfollowed';
begin
    -- All that this customer has on the sender, in one order: who comes second sees what the first one chose.
    perform from address a
      join address o on o.customer_id = a.customer_id and o.sender_id = a.sender_id
     where a.id = p_address order by o.id for update of o;
    if v_dead then
        update address set dead_reason = p_reason, dead_at = now()
         where id = p_address and dead_at is null
           and (state = 'opted_out' or (state = 'suppressed' and state_reason = 'unfollowed'));
    end if;
    update address
       set state = p_state, state_reason = p_reason, state_changed_at = now(),
           -- Open means that somebody knows better than what was said of it before.
           dead_reason = case when v_dead then p_reason when state = 'active' then null
                              when state = 'suppressed' and state_reason is distinct from 'unfollowed' then coalesce(dead_reason, state_reason)
                              else dead_reason end,
           dead_at = case when v_dead then now() when state = 'active' then null
                          when state = 'suppressed' and state_reason is distinct from 'unfollowed' then coalesce(dead_at, state_changed_at)
                          else dead_at end
     where id = p_address and not (state = 'opted_out' and p_state = 'suppressed')
       and (state <> p_state or (p_state = 'opted_out' and state_reason = 'stop' and p_reason <> 'stop'))
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

-- As before, and whatever a provider said of it is forgotten.
create or replace function open_address(p_address bigint) returns void language plpgsql as $$
declare v address;
begin
    perform from address a
      join address o on o.customer_id = a.customer_id and o.sender_id = a.sender_id
     where a.id = p_address order by o.id for update of o;
    update address set state = 'active', state_reason = null, state_changed_at = now(), dead_reason = null, dead_at = null
     where id = p_address and state <> 'active' returning * into v;
    if found and not v.is_current
       and not exists (select from address o where o.sender_id = v.sender_id and o.customer_id = v.customer_id
                          and o.is_current and o.state = 'active') then
        update address set is_current = false where sender_id = v.sender_id and customer_id = v.customer_id and is_current;
        update address set is_current = true where id = v.id;
    end if;
end $$;

-- Brings the states of these addresses of a sender in line with what their persons last said, each word once for each row: what a
-- person or a provider did to it since is not undone because the address is heard of again.
--   STOP closes whatever is not opted out; START opens what a STOP closed, never what the person closed elsewhere
--   unfollowing closes; following later opens again, also what the provider had called dead before
--   what the provider called dead while it was closed stays closed when a START opens it
create or replace function settle_standing(p_sender uuid, p_addresses text[]) returns void language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare a record;
begin
    perform settle_front_standing(p_sender, p_addresses);
    for a in
        select d.id, d.state, d.state_reason, d.state_changed_at, s.follows, s.followed_at, s.wanted, s.wanted_at,
               case when d.dead_at is not null then d.dead_at
                    when d.state = 'suppressed' and d.state_reason is distinct from 'unfollowed' then d.state_changed_at end as dead_at,
               case when d.dead_at is not null then d.dead_reason
                    when d.state = 'suppressed' and d.state_reason is distinct from 'unfollowed' then d.state_reason end as dead_reason
          from (select distinct u.address from unnest(p_addresses) as u (address)) n
          join address_standing s on s.sender_id = p_sender and s.address = n.address
          join address d on d.sender_id = s.sender_id and d.address = s.address
         where (d.wanted_done, d.wanted_done_at, d.follows_done, d.follows_done_at) is distinct from (s.wanted, s.wanted_at, s.follows, s.followed_at)
         order by d.id
    loop
        if a.state = 'opted_out' and a.state_reason is distinct from 'stop' then
            -- Closed elsewhere: no word from here changes that, now or later.
            null;
        elsif not a.wanted then
            perform close_address(a.id, 'opted_out', 'stop');
        elsif a.state = 'opted_out' and a.wanted is null then
            -- Closed by a STOP that was written down elsewhere: nothing here says otherwise.
            null;
        elsif not a.follows then
            if a.state = 'opted_out' then
                perform open_address(a.id);
            end if;
            perform close_address(a.id, 'suppressed', 'unfollowed');
            update address set dead_at = a.dead_at, dead_reason = a.dead_reason where id = a.id and a.dead_at is not null;
        elsif a.state = 'opted_out' or (a.state = 'suppressed' and a.follows
                and (a.state_reason = 'unfollowed' or a.followed_at > a.state_changed_at)) then
            perform open_address(a.id);
            if a.dead_at is not null and (a.follows is not true or a.followed_at <= a.dead_at) then
                perform close_address(a.id, 'suppressed', a.dead_reason);
                update address set dead_at = a.dead_at where id = a.id;
            end if;
        end if;
        update address
           set wanted_done = a.wanted, wanted_done_at = a.wanted_at, follows_done = a.follows, follows_done_at = a.followed_at
         where id = a.id;
    end loop;
end $$;

-- Takes the locks of whoever makes these addresses, or closes them while somebody may be making them. A few keep only each
-- other waiting, whoever writes addresses otherwise (`put_address`, an import) and many at once keep the whole shop's: a lock for each
-- would fill the server's table of them. Before any row of an address is locked, and once a transaction.
create function lock_newcomers(p_sender uuid, p_shop uuid, p_addresses text[]) returns void language plpgsql as $$
declare v_all bigint := hashtextextended('address:' || coalesce(p_shop, p_sender)::text, 0);
begin
    if cardinality(p_addresses) > 16 then
        perform pg_advisory_xact_lock(v_all);
        return;
    end if;
    perform pg_advisory_xact_lock_shared(v_all);
    perform pg_advisory_xact_lock(l.of_one)
       from (select distinct hashtextextended('newcomer:' || p_sender::text || ':' || u.address, 0) as of_one
               from unnest(p_addresses) as u (address) order by 1) l;
end $$;

-- As before, but not for addresses made under the locks of `lock_newcomers`: whoever holds those has made sure that there are no twins.
create or replace function address_mark_twins() returns trigger language plpgsql as $$
begin
    if current_setting('carillon.newcomers', true) = 'locked' then
        return null;
    end if;
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

-- As before, under the locks of `lock_newcomers`: nobody else makes these addresses, so there are no twins to look for.
create or replace function meet_customers(p_sender uuid, p_shop uuid, p_addresses text[]) returns void language plpgsql as $$
begin
    perform set_config('carillon.newcomers', 'locked', true);
    with met as materialized (
        select u.address, nextval(pg_get_serial_sequence('customer', 'id')) as id
          from unnest(p_addresses) as u (address)
         where not exists (select from address a where a.sender_id = p_sender and a.address = u.address)
    ), made as (
        insert into customer (id, shop_id) overriding system value select id, p_shop from met order by id returning id
    )
    insert into address (shop_id, sender_id, customer_id, address)
    select p_shop, p_sender, m.id, m.address from met m join made on made.id = m.id;
    perform set_config('carillon.newcomers', '', true);
end $$;

-- As before, with locks that keep fewer waiting, less to do for what is only a receipt, and what the customers of a shop front have seen.
create or replace function apply_events(p_sender uuid, p_events jsonb)
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
    v_changes text[];
begin
    select array_agg(x order by x.n) into e from jsonb_populate_recordset(null::inbox_event, p_events) x;
    select s.shop_id, s.channel into strict v_shop, v_channel from sender s where s.id = p_sender;

    -- Of two batches that both change messages, each could hold what the other waits for. One change alone holds nothing else
    -- that such a batch waits for, so it keeps only the others of its message waiting.
    select array_agg(x.message_id) into v_changes from unnest(e) x where x.what in ('edited', 'unsent', 'seen');
    if cardinality(e) = 1 and v_changes is not null then
        perform pg_advisory_xact_lock_shared(hashtextextended('inbox-changes:' || p_sender::text, 0));
        perform pg_advisory_xact_lock(hashtextextended('inbox-change:' || p_sender::text || ':' || v_changes[1], 0));
    elsif v_changes is not null then
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
    if cardinality(v_keys) < cardinality(e) then
        select array_agg(x order by x.n) into e
          from (select distinct on (y.key) y.* from unnest(e) y where y.key = any (v_keys) order by y.key, y.n) x;
    end if;

    -- Of two who meet one person at once the second finds what the first made; and who left, or wants nothing more, is told to the
    -- address that somebody is just making.
    select array_agg(distinct x.address) into v_addresses from unnest(e) x
     where x.what in ('followed', 'unfollowed', 'consent')
        or (v_shop is not null and x.what in ('message', 'postback', 'echo', 'referred')
            and case when v_channel = 'app' then not exists (select from customer c where c.shop_id = v_shop and c.external_id = x.address)
                     else not exists (select from address a where a.sender_id = p_sender and a.address = x.address) end);
    if v_addresses is not null then
        perform lock_newcomers(p_sender, v_shop, v_addresses);
    end if;
    if not exists (select from unnest(e) x where x.what in ('message', 'postback', 'echo', 'edited', 'unsent', 'followed', 'referred', 'seen')) then
        -- Receipts, and what is only counted.
        return query select x.n, null::bigint, null::bigint, false from unnest(e) x order by x.n;
        return;
    end if;

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

    -- Locked before they are read: who waits here for another batch must see the names that one gave, on address and customer alike.
    perform from address a
      where v_channel <> 'app' and a.sender_id = p_sender
        and a.address in (select y.address from unnest(e) y where y.what in ('message', 'postback'))
      order by a.id for update;
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

    if 'seen' = any (select x.what from unnest(e) x) then
        insert into message as m (sender_id, provider_id, address, read_at)
        select p_sender, x.message_id, max(x.address), min(x.at) from unnest(e) x where x.what = 'seen' group by 1, 2 order by 2
        on conflict (sender_id, provider_id) do update set read_at = least(m.read_at, excluded.read_at);
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

-- The deliveries that "everything up to p_up_to" is about: those whose result was written by then, and those of which nobody knows
-- yet whether they left: that may be found out at the same moment. p_since: what was settled before was looked at with an earlier
-- watermark.
create or replace function watermark_find(p_sender uuid, p_address text, p_read boolean, p_since timestamptz, p_up_to timestamptz)
returns table (broadcast_id uuid, channel channel, customer_id bigint) language sql stable
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set max_parallel_workers_per_gather = 0 as $$
    select d.broadcast_id, d.channel, d.customer_id
      from address a
      join lane l on l.sender_id = a.sender_id and l.shop_id = a.shop_id
      join broadcast b on b.id = l.broadcast_id and b.sending_at <= p_up_to
           and (b.finished_at is null or b.finished_at >= greatest(p_since, now() - interval '30 days'))
      join delivery_result d on d.broadcast_id = l.broadcast_id and d.channel = l.channel and d.customer_id = a.customer_id
      join delivery p on p.broadcast_id = d.broadcast_id and p.channel = d.channel and p.customer_id = d.customer_id
           and p.address_id = a.id
     where a.sender_id = p_sender and a.address = p_address and d.settled_at <= p_up_to
       and (d.state in ('accepted', 'unknown') or (p_read and d.state = 'delivered'))
$$;

-- As before; p_presumed: it is said of everything up to a time. That says nothing of an `unknown`: only where another batch has found
-- out by then that it left, it counts.
create function receipt_move(p_senders uuid[], p_broadcasts uuid[], p_channels channel[], p_customers bigint[],
        p_outcomes delivery_state[], p_reasons text[], p_codes text[], p_provider_ids text[], p_presumed boolean[])
returns table (moved bigint, refunded bigint) language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set max_parallel_workers_per_gather = 0 as $$
declare v_broadcasts uuid[]; v_channels channel[]; v_tokens bigint[]; v_first bigint[]; v_open record; v_post record;
        v_broadcasts_posted uuid[]; v_channels_posted channel[]; v_ns_posted int[];
begin
    if 'failed' = any (p_outcomes) then
        -- Before a charge is taken back it must have been captured: what was accepted and is not posted yet is, here. Not by
        -- post_slices, which goes on to tokens before it has locked the next slice: of many, each could wait for a settle. Slices and
        -- lanes come before results, as in a settle; a slice looked at without a lock can only gain others than these.
        select array_agg(o.broadcast_id order by o.broadcast_id, o.channel, o.slice_no) as broadcasts,
               array_agg(o.channel order by o.broadcast_id, o.channel, o.slice_no) as channels,
               array_agg(o.slice_no order by o.broadcast_id, o.channel, o.slice_no) as slice_nos
          into v_open
          from (select distinct t.broadcast_id, t.channel, t.slice_no
                  from unnest(p_broadcasts, p_channels, p_customers, p_outcomes) as r (broadcast_id, channel, customer_id, outcome)
                  join slice t on t.broadcast_id = r.broadcast_id and t.channel = r.channel and t.state <> 'settled' and t.unposted > 0
                       and r.customer_id between t.first_customer and t.last_customer
                 where r.outcome = 'failed') o;
        if v_open.broadcasts is not null then
            perform from slice t
               join unnest(v_open.broadcasts, v_open.channels, v_open.slice_nos) as o (broadcast_id, channel, slice_no)
                 on t.broadcast_id = o.broadcast_id and t.channel = o.channel and t.slice_no = o.slice_no
              order by t.broadcast_id, t.channel, t.slice_no for update of t;
            perform from lane l
              where l.broadcast_id = any (v_open.broadcasts)
                and (l.broadcast_id, l.channel) in (select * from unnest(v_open.broadcasts, v_open.channels))
              order by l.broadcast_id, l.sender_id for update;
            with before as materialized (
                select t.broadcast_id, t.channel, t.slice_no, t.unposted, t.settles
                  from unnest(v_open.broadcasts, v_open.channels, v_open.slice_nos) as o (broadcast_id, channel, slice_no)
                  join slice t on t.broadcast_id = o.broadcast_id and t.channel = o.channel and t.slice_no = o.slice_no
                 where t.unposted > 0),
            cleared as (
                update slice t set unposted = 0, settles = t.settles + 1 from before o
                 where t.broadcast_id = o.broadcast_id and t.channel = o.channel and t.slice_no = o.slice_no),
            -- Deliveries of these slices are left, so neither a lane nor a broadcast ends here.
            taken as (
                update lane l set remaining = l.remaining - o.n
                  from (select x.broadcast_id, x.channel, sum(x.unposted) as n from before x group by 1, 2) o
                 where l.broadcast_id = o.broadcast_id and l.channel = o.channel
                returning l.broadcast_id, l.channel, l.tokens)
            select array_agg(o.broadcast_id) as broadcasts, array_agg(o.channel) as channels, array_agg(o.slice_no) as slice_nos,
                   array_agg(o.unposted) as ns, array_agg(o.settles + 1) as settles, array_agg(k.tokens) as tokens
              into v_post
              from before o join taken k on k.broadcast_id = o.broadcast_id and k.channel = o.channel;
            v_broadcasts_posted := v_post.broadcasts;
            v_channels_posted := v_post.channels;
            v_ns_posted := v_post.ns;
        end if;
    end if;
    -- Locked before they are read: who waits here for another batch must see what that one wrote, results and watermarks alike.
    perform from delivery_result d
       join unnest(p_broadcasts, p_channels, p_customers) as r (broadcast_id, channel, customer_id)
         on d.broadcast_id = r.broadcast_id and d.channel = r.channel and d.customer_id = r.customer_id
      order by d.broadcast_id, d.channel, d.customer_id for update of d;
    with said as (
        select r.sender_id, r.broadcast_id, r.channel, r.customer_id, max(r.provider_id) as provider_id,
               max(r.outcome) filter (where r.outcome <> 'failed' and r.presumed is not true) as reached,
               max(r.outcome) filter (where r.presumed) as presumed,
               -- Of two failures the same one every time.
               (array_agg(r.reason order by r.reason, r.code) filter (where r.outcome = 'failed'))[1] as reason,
               (array_agg(r.code order by r.reason, r.code) filter (where r.outcome = 'failed'))[1] as code
          from unnest(p_senders, p_broadcasts, p_channels, p_customers, p_outcomes, p_reasons, p_codes, p_provider_ids, p_presumed)
               as r (sender_id, broadcast_id, channel, customer_id, outcome, reason, code, provider_id, presumed)
         group by 1, 2, 3, 4),
    locked as materialized (
        select d.broadcast_id, d.channel, d.customer_id, d.state, d.reason, d.code, d.charged_tokens, d.changed_at, d.settled_at,
               d.provider_id, s.sender_id, s.reached, s.presumed, s.reason as failure, s.code as failure_code, s.provider_id as said_id
          from said s
          join delivery_result d on d.broadcast_id = s.broadcast_id and d.channel = s.channel and d.customer_id = s.customer_id),
    next as (
        select l.*,
               case when l.failure is not null and l.state in ('accepted', 'delivered', 'read', 'unknown') then 'failed'
                    when l.state in ('accepted', 'delivered') then greatest(l.state, l.reached, l.presumed)
                    -- What was said of everything up to then counts for it, too, now that it is known to have been sent.
                    when l.state = 'unknown' and l.reached is not null then greatest(l.reached,
                        (select case when w.read_up_to >= l.settled_at then 'read'
                                     when w.delivered_up_to >= l.settled_at then 'delivered' end::delivery_state
                           from delivery d join address a on a.id = d.address_id
                           join receipt_watermark w on w.sender_id = l.sender_id and w.address = a.address
                          where d.broadcast_id = l.broadcast_id and d.channel = l.channel and d.customer_id = l.customer_id))
                    else l.state end as to_state
          from locked l),
    target as (
        select n.*,
               -- A failure told here before gives way to one that comes first; what failed as it was sent keeps its reason.
               case when n.to_state = n.state and n.state = 'failed' and n.changed_at is not null and n.failure is not null
                         and (n.failure, coalesce(n.failure_code, '')) < (n.reason, coalesce(n.code, '')) then true
                    else n.to_state <> n.state end as moves
          from next n),
    changed as (
        update delivery_result d
           set state = t.to_state, charged_tokens = case t.to_state when 'failed' then 0 else d.charged_tokens end,
               reason = case when not t.moves then d.reason when t.to_state = 'failed' then t.failure end,
               code = case when not t.moves then d.code when t.to_state = 'failed' then t.failure_code end,
               provider_id = coalesce(d.provider_id, t.said_id),
               changed_at = case when t.moves then now() else d.changed_at end
          from target t
         where d.broadcast_id = t.broadcast_id and d.channel = t.channel and d.customer_id = t.customer_id
           and (t.moves or (t.provider_id is null and t.said_id is not null))
        returning d.broadcast_id, d.channel, d.customer_id, t.moves, t.state as from_state, t.reason as from_reason,
                  d.state as to_state, d.reason as to_reason, t.charged_tokens - d.charged_tokens as given_back),
    counted as (
        insert into tally (broadcast_id, stage, channel, outcome, reason, n)
        select c.broadcast_id, 'send', c.channel, c.outcome, c.reason, sum(c.n)
          from (select g.broadcast_id, g.channel, g.from_state as outcome, g.from_reason as reason, -1 as n from changed g where g.moves
                union all
                select g.broadcast_id, g.channel, g.to_state, g.to_reason, 1 from changed g where g.moves
                union all
                select u.broadcast_id, u.channel, 'accepted', null, u.n
                  from unnest(v_broadcasts_posted, v_channels_posted, v_ns_posted) as u (broadcast_id, channel, n)) c
         group by c.broadcast_id, c.channel, c.outcome, c.reason having sum(c.n) <> 0
         order by c.broadcast_id, c.channel, c.outcome, c.reason
        on conflict (broadcast_id, stage, channel, outcome, reason) do update set n = tally.n + excluded.n),
    summed as (
        select c.broadcast_id, c.channel, count(*) filter (where c.moves) as moved, sum(c.given_back)::bigint as tokens,
               min(c.customer_id) filter (where c.given_back > 0) as first
          from changed c group by 1, 2)
    select coalesce(sum(s.moved), 0), coalesce(sum(s.tokens), 0),
           array_agg(s.broadcast_id order by s.broadcast_id, s.channel) filter (where s.tokens > 0),
           array_agg(s.channel order by s.broadcast_id, s.channel) filter (where s.tokens > 0),
           array_agg(s.tokens order by s.broadcast_id, s.channel) filter (where s.tokens > 0),
           array_agg(s.first order by s.broadcast_id, s.channel) filter (where s.tokens > 0)
      into moved, refunded, v_broadcasts, v_channels, v_tokens, v_first
      from summed s;
    if refunded > 0 or v_broadcasts_posted is not null then
        -- All holds before any account, as one settle takes them.
        perform from token_hold h where h.broadcast_id = any (v_broadcasts || v_broadcasts_posted) order by h.broadcast_id for update;
        perform from token_account a
          where a.shop_id in (select h.shop_id from token_hold h where h.broadcast_id = any (v_broadcasts || v_broadcasts_posted))
          order by a.shop_id for update;
        for i in 1..coalesce(cardinality(v_broadcasts_posted), 0) loop
            perform ledger_settle(v_broadcasts_posted[i], v_channels_posted[i], v_ns_posted[i]::bigint * v_post.tokens[i], 0,
                format('%s:%s:%s:%s', v_broadcasts_posted[i], v_channels_posted[i], v_post.slice_nos[i], v_post.settles[i]));
        end loop;
        for i in 1..coalesce(cardinality(v_broadcasts), 0) loop
            -- A delivery is given back once, so its first customer names a refund for ever.
            perform ledger_refund(v_broadcasts[i], v_channels[i], v_tokens[i],
                format('receipt:%s:%s:%s', v_broadcasts[i], v_channels[i], v_first[i]));
        end loop;
    end if;
    return next;
end $$;

-- For whoever has nothing to presume.
create or replace function receipt_move(p_senders uuid[], p_broadcasts uuid[], p_channels channel[], p_customers bigint[],
        p_outcomes delivery_state[], p_reasons text[], p_codes text[], p_provider_ids text[])
returns table (moved bigint, refunded bigint) language sql as $$
    select * from receipt_move(p_senders, p_broadcasts, p_channels, p_customers, p_outcomes, p_reasons, p_codes, p_provider_ids, null)
$$;

-- As before, but for what is presumed.
create or replace function recheck_watermarks(p_limit int) returns bigint language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare w record; m record;
begin
    with due as (
        select t.sender_id, t.address from receipt_watermark t where t.recheck_at <= now()
         order by t.recheck_at limit p_limit for update skip locked),
    seen as (
        update receipt_watermark t set recheck_at = null from due d
         where t.sender_id = d.sender_id and t.address = d.address returning t.*)
    select coalesce(array_agg(s.sender_id), '{}') as senders, array_agg(s.address) as addresses,
           array_agg(s.delivered_up_to) as delivered, array_agg(s.read_up_to) as read
      into w from seen s;
    select array_agg(f.sender_id) as senders, array_agg(f.broadcast_id) as broadcasts, array_agg(f.channel) as channels,
           array_agg(f.customer_id) as customers, array_agg(f.outcome) as outcomes
      into m
      from (select t.sender_id, x.*, 'read'::delivery_state as outcome
              from unnest(w.senders, w.addresses, w.read) as t (sender_id, address, up_to)
             cross join lateral watermark_find(t.sender_id, t.address, true, t.up_to - interval '1 hour', t.up_to) x
             where t.up_to is not null
            union all
            select t.sender_id, x.*, 'delivered'
              from unnest(w.senders, w.addresses, w.delivered) as t (sender_id, address, up_to)
             cross join lateral watermark_find(t.sender_id, t.address, false, t.up_to - interval '1 hour', t.up_to) x
             where t.up_to is not null) f;
    if m.senders is not null then
        perform receipt_move(m.senders, m.broadcasts, m.channels, m.customers, m.outcomes, null, null, null,
                array_fill(true, array[cardinality(m.outcomes)]));
    end if;
    return cardinality(w.senders);
end $$;

-- As before, but for what is presumed.
create or replace function apply_receipts(p_sender uuid, p_keys text[], p_broadcasts uuid[], p_customers bigint[], p_provider_ids text[],
        p_outcomes delivery_state[], p_reasons text[], p_codes text[], p_closes boolean[], p_ats timestamptz[],
        p_mark_addresses text[], p_mark_read boolean[], p_mark_ats timestamptz[],
        p_said_addresses text[], p_follows boolean[], p_wants boolean[], p_said_ats timestamptz[], p_addresses text[])
returns table (moved bigint, refunded bigint, known bigint, waiting bigint, late bigint) language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare v record; v_up_to record; v_marks record;
begin
    insert into address_standing as s (sender_id, address, follows, followed_at, wanted, wanted_at)
    select p_sender, t.address,
           -- The latest; of two at one moment the one that says no.
           (array_agg(t.follows order by t.at desc, t.follows) filter (where t.follows is not null))[1],
           max(t.at) filter (where t.follows is not null),
           (array_agg(t.wants order by t.at desc, t.wants) filter (where t.wants is not null))[1],
           max(t.at) filter (where t.wants is not null)
      -- A clock of a provider that is days ahead must not have the last word for ever.
      from (select u.address, u.follows, u.wants, least(u.at, now() + interval '1 day') as at
              from unnest(p_said_addresses, p_follows, p_wants, p_said_ats) as u (address, follows, wants, at)) t
     group by t.address order by t.address
    on conflict (sender_id, address) do update
       set follows = case when (s.followed_at, not s.follows) < (excluded.followed_at, not excluded.follows) or s.followed_at is null
                          then excluded.follows else s.follows end,
           followed_at = greatest(s.followed_at, excluded.followed_at),
           wanted = case when (s.wanted_at, not s.wanted) < (excluded.wanted_at, not excluded.wanted) or s.wanted_at is null
                         then excluded.wanted else s.wanted end,
           wanted_at = greatest(s.wanted_at, excluded.wanted_at),
           -- Another word of the same moment is still to be done.
           wanted_done_at = case when s.wanted_at = excluded.wanted_at and s.wanted and not excluded.wanted then null
                                 else s.wanted_done_at end;
    perform settle_standing(p_sender, p_addresses);

    select array_agg(f.broadcast_id order by f.place) as broadcasts, array_agg(f.channel order by f.place) as channels,
           array_agg(f.customer_id order by f.place) as customers, array_agg(f.fate order by f.place) as fates
      into v
      from receipt_find(array_fill(p_sender, array[cardinality(p_keys)]), p_broadcasts, p_customers, p_provider_ids) f;
    select coalesce(array_agg(p_sender), '{}') as senders, array_agg(f.broadcast_id) as broadcasts, array_agg(f.channel) as channels,
           array_agg(f.customer_id) as customers, array_agg(f.code) as codes
      into v_marks
      from unnest(v.broadcasts, v.channels, v.customers, v.fates, p_codes, p_closes)
           as f (broadcast_id, channel, customer_id, fate, code, closes)
     where f.closes and f.fate = 'found';
    if cardinality(v_marks.senders) > 0 then
        perform close_failed_addresses(v_marks.senders, v_marks.broadcasts, v_marks.channels, v_marks.customers, v_marks.codes);
    end if;

    insert into pending_receipt (sender_id, key, broadcast_id, customer_id, provider_id, outcome, reason, code, closes_address, at, due_at)
    select p_sender, r.key, r.broadcast_id, r.customer_id, r.provider_id, r.outcome, r.reason, r.code, r.closes, r.at,
           now() + interval '1 second'
      from unnest(p_keys, p_broadcasts, p_customers, p_provider_ids, p_outcomes, p_reasons, p_codes, p_closes, p_ats, v.fates)
           as r (key, broadcast_id, customer_id, provider_id, outcome, reason, code, closes, at, fate)
     where r.fate in ('early', 'nothing')
     order by r.key
    on conflict (sender_id, key) do nothing;

    -- What was looked at with the watermark before need not be looked at again.
    with raised as (
        select u.address, max(u.at) filter (where not u.read) as delivered, max(u.at) filter (where u.read) as read
          from (select t.address, t.read, least(t.at, now()) as at
                  from unnest(p_mark_addresses, p_mark_read, p_mark_ats) as t (address, read, at)) u group by u.address),
    before as materialized (
        select r.address, r.delivered, r.read, w.delivered_up_to, w.read_up_to
          from raised r left join receipt_watermark w on w.sender_id = p_sender and w.address = r.address),
    written as (
        insert into receipt_watermark as w (sender_id, address, delivered_up_to, read_up_to, recheck_at)
        select p_sender, b.address, b.delivered, b.read, now() + interval '1 minute' from before b order by b.address
        on conflict (sender_id, address) do update
           set delivered_up_to = greatest(w.delivered_up_to, excluded.delivered_up_to),
               read_up_to = greatest(w.read_up_to, excluded.read_up_to), recheck_at = excluded.recheck_at
         where excluded.delivered_up_to > coalesce(w.delivered_up_to, '-infinity')
            or excluded.read_up_to > coalesce(w.read_up_to, '-infinity')),
    meant as (
        select f.broadcast_id, f.channel, f.customer_id, 'read'::delivery_state as outcome
          from before b cross join lateral watermark_find(p_sender, b.address, true, b.read_up_to, b.read) f
         where b.read > coalesce(b.read_up_to, '-infinity')
        union all
        select f.broadcast_id, f.channel, f.customer_id, 'delivered'
          from before b cross join lateral watermark_find(p_sender, b.address, false, b.delivered_up_to, b.delivered) f
         where b.delivered > coalesce(b.delivered_up_to, '-infinity'))
    select array_agg(m.broadcast_id) as broadcasts, array_agg(m.channel) as channels, array_agg(m.customer_id) as customers,
           array_agg(m.outcome) as outcomes
      into v_up_to from meant m;

    select array_agg(f.broadcast_id) as broadcasts, array_agg(f.channel) as channels, array_agg(f.customer_id) as customers,
           array_agg(f.outcome) as outcomes, array_agg(f.reason) as reasons, array_agg(f.code) as codes,
           array_agg(f.provider_id) as provider_ids
      into v_marks
      from unnest(v.broadcasts, v.channels, v.customers, v.fates, p_outcomes, p_reasons, p_codes, p_provider_ids)
           as f (broadcast_id, channel, customer_id, fate, outcome, reason, code, provider_id)
     where f.fate = 'found';
    select count(*) filter (where f in ('early', 'nothing')), count(*) filter (where f = 'late'), count(*) filter (where f = 'found')
      into waiting, late, known from unnest(v.fates) as f;
    moved := 0;
    refunded := 0;
    if v_marks.broadcasts is not null or v_up_to.broadcasts is not null then
        select m.moved, m.refunded into moved, refunded
          from receipt_move(
            array_fill(p_sender, array[coalesce(cardinality(v_marks.broadcasts), 0) + coalesce(cardinality(v_up_to.broadcasts), 0)]),
            v_marks.broadcasts || v_up_to.broadcasts, v_marks.channels || v_up_to.channels, v_marks.customers || v_up_to.customers,
            v_marks.outcomes || v_up_to.outcomes, v_marks.reasons, v_marks.codes, v_marks.provider_ids,
            array_fill(false, array[coalesce(cardinality(v_marks.broadcasts), 0)])
                || array_fill(true, array[coalesce(cardinality(v_up_to.broadcasts), 0)])) m;
        known := greatest(known - moved, 0);
    end if;
    return next;
end $$;

-- Applies up to a hundred events of a webhook, all of one sender, in one round trip and one transaction: conversations first, then
-- deliveries and addresses, then the webhook's own row goes if these are its last. Null for p_webhook: events that no webhook told.
-- Arrays as `apply_receipts` has them; then addresses that can never be reached with the provider's codes, and mails called spam.
--   held: false, the webhook is done, put aside or in somebody's hands, and nothing happened
--   ns, conversations: the events that are new, and the conversation of each that has one
--   unassigned: conversations that nobody has and somebody should get
create function apply_webhook(p_webhook uuid, p_is_last boolean, p_sender uuid, p_events jsonb,
        p_keys text[], p_broadcasts uuid[], p_customers bigint[], p_provider_ids text[],
        p_outcomes delivery_state[], p_reasons text[], p_codes text[], p_closes boolean[], p_ats timestamptz[],
        p_mark_addresses text[], p_mark_read boolean[], p_mark_ats timestamptz[],
        p_said_addresses text[], p_follows boolean[], p_wants boolean[], p_said_ats timestamptz[], p_addresses text[],
        p_dead_addresses text[], p_dead_codes text[], p_spam_broadcasts uuid[], p_spam_customers bigint[])
returns table (held boolean, ns int[], conversations bigint[], unassigned bigint[],
        moved bigint, refunded bigint, known bigint, waiting bigint, late bigint) language plpgsql
    -- Planned anew each time, as the planner likes to where an array is unnested, this would take five times as long.
    set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
    set max_parallel_workers_per_gather = 0 set jit = off as $$
begin
    held := true;
    ns := '{}'; conversations := '{}';
    moved := 0; refunded := 0; known := 0; waiting := 0; late := 0;
    if p_webhook is not null and p_is_last then
        delete from webhook_pending p
         using (select q.webhook_id from webhook_pending q where q.webhook_id = p_webhook and q.failed_at is null for update skip locked) mine
         where p.webhook_id = mine.webhook_id;
        held := found;
    elsif p_webhook is not null then
        perform from webhook_pending q where q.webhook_id = p_webhook and q.failed_at is null for update skip locked;
        held := found;
    end if;
    if not held then
        return next;
        return;
    end if;
    select coalesce(array_agg(a.n), '{}'), coalesce(array_agg(a.conversation_id), '{}'),
           array_agg(distinct a.conversation_id) filter (where a.unassigned)
      into ns, conversations, unassigned
      from apply_events(p_sender, p_events) a;
    if unassigned is not null then
        update conversation t set awaits_staff = true where t.id = any (unassigned) and not t.awaits_staff;
    end if;

    -- Each in one order, or two batches that meet the same addresses could wait for each other.
    if cardinality(p_dead_addresses) > 0 then
        perform close_address(t.id, 'suppressed', t.code)
           from (select a.id, min(u.code) as code from unnest(p_dead_addresses, p_dead_codes) as u (address, code)
                   join address a on a.sender_id = p_sender and a.address = u.address group by a.id order by a.id) t;
    end if;
    if cardinality(p_spam_broadcasts) > 0 then
        perform close_address(t.id, 'opted_out', 'complaint')
           from (select distinct same.id from unnest(p_spam_broadcasts, p_spam_customers) as u (broadcast_id, customer_id)
                   join lane l on l.broadcast_id = u.broadcast_id and l.sender_id = p_sender
                   join delivery d on d.broadcast_id = l.broadcast_id and d.channel = l.channel and d.customer_id = u.customer_id
                   join address a on a.id = d.address_id
                   join address same on same.sender_id = a.sender_id and same.address = a.address and same.shop_id = a.shop_id
                  order by same.id) t;
    end if;
    if cardinality(p_keys) + cardinality(p_mark_addresses) + cardinality(p_said_addresses) > 0 then
        select r.moved, r.refunded, r.known, r.waiting, r.late into moved, refunded, known, waiting, late
          from apply_receipts(p_sender, p_keys, p_broadcasts, p_customers, p_provider_ids, p_outcomes, p_reasons, p_codes, p_closes, p_ats,
                p_mark_addresses, p_mark_read, p_mark_ats, p_said_addresses, p_follows, p_wants, p_said_ats, p_addresses) r;
    else
        -- Nothing was said; an address that is new may have been spoken of before.
        if exists (select from address_standing s where s.sender_id = p_sender and s.address = any (p_addresses)) then
            perform settle_standing(p_sender, p_addresses);
        end if;
    end if;
    return next;
end $$;

-- As before, and it waits for nobody any more.
create or replace function assign_conversation(p_conversation bigint, p_staff bigint, p_by text) returns boolean language plpgsql as $$
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
    update conversation set assigned_staff_id = p_staff, awaits_staff = false where id = p_conversation;
    insert into assignment (conversation_id, staff_id, assigned_by) values (p_conversation, p_staff, p_by);
    return true;
end $$;

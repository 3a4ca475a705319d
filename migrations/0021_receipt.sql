-- why: what providers tell of messages that left. A receipt moves a delivery forward, or fails it and gives its tokens back; it
-- may come twice, late, before what it speaks of, or in any order, and what comes out is the same. Locks, in this order: addresses,
-- waiting receipts, then as a settle: slices and lanes (only to post what a refund stands on), results, tally, hold, account.

-- All locks at once, in the order in which a claim takes them.
lock table broadcast, address, delivery_result in access exclusive mode;

-- Whatever a provider said before, `failed` is its last word: so what comes out does not depend on which receipt came first.
create or replace function delivery_may_move(p_from delivery_state, p_to delivery_state) returns boolean language sql immutable as $$
    select case p_from
        when 'accepted'  then p_to in ('delivered', 'read', 'failed')
        when 'delivered' then p_to in ('read', 'failed')
        when 'read'      then p_to = 'failed'
        when 'unknown'   then p_to in ('accepted', 'delivered', 'read', 'failed')
        else false end
$$;

-- Where receipts name a message by the provider's id. LINE, the app and mail have no such receipts and pay nothing for it when
-- they settle. On a large table the partitions' indexes are built concurrently before; then this one only takes them in.
create index if not exists delivery_result_provider on delivery_result (provider_id)
    where provider_id is not null and channel in ('messenger', 'whatsapp', 'sms');
-- The broadcasts of a sender, for what says "everything up to now".
create index if not exists lane_by_sender on lane (sender_id, broadcast_id);

-- Receipts that match no result yet, and those that never did. A message's receipt may overtake the result of its send.
create table pending_receipt (
    sender_id      uuid not null references sender,
    -- The event's key: told twice, it waits once.
    key            text not null,
    broadcast_id   uuid,
    customer_id    bigint,
    provider_id    text,
    outcome        delivery_state not null check (outcome in ('accepted', 'delivered', 'read', 'failed')),
    reason         text,
    code           text,
    closes_address boolean not null,
    at             timestamptz not null,
    received_at    timestamptz not null default now(),
    -- When it is tried again; null: nothing was found in time, it is kept to be counted.
    due_at         timestamptz,
    primary key (sender_id, key),
    constraint pending_receipt_names_a_message check (provider_id is not null or (broadcast_id is not null and customer_id is not null)),
    constraint pending_failure_has_a_reason check (outcome <> 'failed' or reason is not null)
);
create index pending_receipt_due on pending_receipt (due_at) where due_at is not null;
create index pending_receipt_unmatched on pending_receipt (received_at) where due_at is null;
create index pending_receipt_of_delivery on pending_receipt (broadcast_id, customer_id) where broadcast_id is not null;

-- Up to when everything that was sent to an address has arrived, and was seen, where a provider tells it so (Messenger).
create table receipt_watermark (
    sender_id       uuid not null references sender,
    address         text not null,
    delivered_up_to timestamptz,
    read_up_to      timestamptz,
    -- A settle that began before the watermark and commits after it was applied: it is looked for once more.
    recheck_at      timestamptz,
    primary key (sender_id, address)
);
create index receipt_watermark_recheck on receipt_watermark (recheck_at) where recheck_at is not null;

-- What the person behind an address last said by webhook, each with the provider's time of it: the latest counts, in whatever
-- order they arrive, also when the address is not known yet.
create table address_standing (
    sender_id   uuid not null references sender,
    address     text not null,
    follows     boolean,
    followed_at timestamptz,
    wanted      boolean,
    wanted_at   timestamptz,
    primary key (sender_id, address),
    constraint following_has_a_time check ((follows is null) = (followed_at is null)),
    constraint wanting_has_a_time check ((wanted is null) = (wanted_at is null))
);

-- Who is erased leaves nothing here.
create function address_is_forgotten() returns trigger language plpgsql as $$
begin
    delete from address_standing s using gone g where s.sender_id = g.sender_id and s.address = g.address
       and not exists (select from address a where a.sender_id = g.sender_id and a.address = g.address);
    delete from receipt_watermark w using gone g where w.sender_id = g.sender_id and w.address = g.address
       and not exists (select from address a where a.sender_id = g.sender_id and a.address = g.address);
    return null;
end $$;
create trigger address_is_forgotten after delete on address
    referencing old table as gone for each statement execute function address_is_forgotten();

-- Stops sending to one address: state is `opted_out` (the person said so) or `suppressed` (the provider said so).
-- Where the customer has another valid one on the same sender, the newest takes its place. Running it twice is harmless.
-- An opt-out elsewhere takes the place of a STOP, so that a later START does not undo it.
create or replace function close_address(p_address bigint, p_state text, p_reason text) returns boolean language plpgsql as $$
declare v address;
begin
    -- All that this customer has on the sender, in one order: who comes second sees what the first one chose.
    perform from address a
      join address o on o.customer_id = a.customer_id and o.sender_id = a.sender_id
     where a.id = p_address order by o.id for update of o;
    update address set state = p_state, state_reason = p_reason, state_changed_at = now()
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

-- Sends to an address again. It becomes the current one where the current one is closed.
create function open_address(p_address bigint) returns void language plpgsql as $$
declare v address;
begin
    perform from address a
      join address o on o.customer_id = a.customer_id and o.sender_id = a.sender_id
     where a.id = p_address order by o.id for update of o;
    update address set state = 'active', state_reason = null, state_changed_at = now()
     where id = p_address and state <> 'active' returning * into v;
    if found and not v.is_current
       and not exists (select from address o where o.sender_id = v.sender_id and o.customer_id = v.customer_id
                          and o.is_current and o.state = 'active') then
        update address set is_current = false where sender_id = v.sender_id and customer_id = v.customer_id and is_current;
        update address set is_current = true where id = v.id;
    end if;
end $$;

-- Brings the states of these addresses of a sender in line with what their persons last said.
--   STOP closes whatever is not opted out; START opens what a STOP closed, never what the person closed elsewhere
--   unfollowing closes; following later opens again, also what the provider had called dead before
create function settle_standing(p_sender uuid, p_addresses text[]) returns void language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare a record;
begin
    for a in
        select d.id, d.state, d.state_reason, d.state_changed_at, s.follows, s.followed_at, s.wanted
          from (select distinct u.address from unnest(p_addresses) as u (address)) n
          join address_standing s on s.sender_id = p_sender and s.address = n.address
          join address d on d.sender_id = s.sender_id and d.address = s.address
         where not (d.state = 'opted_out' and d.state_reason is distinct from 'stop')
         order by d.id
    loop
        if not a.wanted then
            perform close_address(a.id, 'opted_out', 'stop');
        elsif a.state = 'opted_out' and a.wanted is null then
            -- Closed by a STOP that was written down elsewhere: nothing here says otherwise.
            continue;
        elsif not a.follows then
            if a.state = 'opted_out' then
                perform open_address(a.id);
            end if;
            perform close_address(a.id, 'suppressed', 'unfollowed');
        elsif a.state = 'opted_out' or (a.state = 'suppressed' and a.follows
                and (a.state_reason = 'unfollowed' or a.followed_at > a.state_changed_at)) then
            perform open_address(a.id);
        end if;
    end loop;
end $$;

-- Closes the addresses of deliveries that the provider says can never be reached, and every customer's with the same one.
create function close_failed_addresses(p_senders uuid[], p_broadcasts uuid[], p_channels channel[], p_customers bigint[], p_codes text[])
returns void language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
begin
    perform close_address(t.id, 'suppressed', t.code)
       from (select same.id, min(f.code) as code
               from unnest(p_senders, p_broadcasts, p_channels, p_customers, p_codes) as f (sender_id, broadcast_id, channel, customer_id, code)
               join delivery d on d.broadcast_id = f.broadcast_id and d.channel = f.channel and d.customer_id = f.customer_id
               join address a on a.id = d.address_id and a.sender_id = f.sender_id
               join address same on same.sender_id = a.sender_id and same.address = a.address
              group by same.id order by same.id) t;
end $$;

-- Which delivery each receipt is about. fate: `found`; `early` (it is planned, and has no result yet); `late` (its broadcast
-- ended more than 30 days ago); `nothing`.
create function receipt_find(p_senders uuid[], p_broadcasts uuid[], p_customers bigint[], p_provider_ids text[])
returns table (place bigint, broadcast_id uuid, channel channel, customer_id bigint, fate text) language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set max_parallel_workers_per_gather = 0 as $$
begin
    return query
    select r.place, f.broadcast_id, f.channel, f.customer_id,
           case when f.broadcast_id is null then 'nothing'
                when f.finished_at < now() - interval '30 days' then 'late'
                when f.ended then 'found' else 'early' end
      from unnest(p_senders, p_broadcasts, p_customers, p_provider_ids)
           with ordinality as r (sender_id, broadcast_id, customer_id, provider_id, place)
      left join lateral (
            -- By our mark, which names a delivery with the sender it came over: nobody's receipts move another's deliveries.
            select d.broadcast_id, d.channel, d.customer_id, b.finished_at,
                   exists (select from delivery_result x where x.broadcast_id = d.broadcast_id and x.channel = d.channel
                              and x.customer_id = d.customer_id) as ended
              from lane l
              join broadcast b on b.id = l.broadcast_id
              join delivery d on d.broadcast_id = l.broadcast_id and d.channel = l.channel and d.customer_id = r.customer_id
             where l.broadcast_id = r.broadcast_id and l.sender_id = r.sender_id
            union all
            select x.broadcast_id, x.channel, x.customer_id, b.finished_at, true
              from delivery_result x
              join lane l on l.broadcast_id = x.broadcast_id and l.channel = x.channel and l.sender_id = r.sender_id
              join broadcast b on b.id = l.broadcast_id
             where r.broadcast_id is null and x.provider_id = r.provider_id
               and x.channel in ('messenger', 'whatsapp', 'sms')
            limit 1) f on true;
end $$;

-- Moves deliveries by what receipts say of them, several of one included: `failed` is the last word, else the furthest state
-- counts. An `unknown` that proves to have arrived is not charged, because its tokens went back; a failure gives back
-- what was charged. Returns how many deliveries changed and how many tokens went back.
create function receipt_move(p_senders uuid[], p_broadcasts uuid[], p_channels channel[], p_customers bigint[],
        p_outcomes delivery_state[], p_reasons text[], p_codes text[], p_provider_ids text[])
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
    with said as (
        select r.sender_id, r.broadcast_id, r.channel, r.customer_id, max(r.provider_id) as provider_id,
               max(r.outcome) filter (where r.outcome <> 'failed') as reached,
               -- Of two failures the same one every time.
               (array_agg(r.reason order by r.reason, r.code) filter (where r.outcome = 'failed'))[1] as reason,
               (array_agg(r.code order by r.reason, r.code) filter (where r.outcome = 'failed'))[1] as code
          from unnest(p_senders, p_broadcasts, p_channels, p_customers, p_outcomes, p_reasons, p_codes, p_provider_ids)
               as r (sender_id, broadcast_id, channel, customer_id, outcome, reason, code, provider_id)
         group by 1, 2, 3, 4),
    -- In one order: two batches that meet the same deliveries never wait for each other.
    locked as materialized (
        select d.broadcast_id, d.channel, d.customer_id, d.state, d.reason, d.code, d.charged_tokens, d.changed_at, d.settled_at,
               d.provider_id, s.sender_id, s.reached, s.reason as failure, s.code as failure_code, s.provider_id as said_id
          from said s
          join delivery_result d on d.broadcast_id = s.broadcast_id and d.channel = s.channel and d.customer_id = s.customer_id
         order by d.broadcast_id, d.channel, d.customer_id for update of d),
    next as (
        select l.*,
               case when l.failure is not null and l.state in ('accepted', 'delivered', 'read', 'unknown') then 'failed'
                    when l.state in ('accepted', 'delivered') then greatest(l.state, l.reached)
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

-- The deliveries that "everything up to p_up_to" is about: those whose result was written by then. p_since: what was settled
-- before was looked at with an earlier watermark.
create function watermark_find(p_sender uuid, p_address text, p_read boolean, p_since timestamptz, p_up_to timestamptz)
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
       and (d.state = 'accepted' or (p_read and d.state = 'delivered'))
$$;

-- Applies the receipts of a sender's events, once a transaction: it takes its locks in one order, and a second call would begin
-- it anew. The first nine arrays are receipts of one message each, by mark or by the provider's id; then what is said of everything
-- up to a time (p_read: it was seen, else it arrived), what persons said (p_follows: followed or left; p_wants: START
-- or STOP), and which addresses the events speak of at all.
-- moved: deliveries that changed; known: receipts that said nothing new; waiting: those that match no result yet; late: those of
-- broadcasts that ended more than 30 days ago.
create function apply_receipts(p_sender uuid, p_keys text[], p_broadcasts uuid[], p_customers bigint[], p_provider_ids text[],
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
           wanted_at = greatest(s.wanted_at, excluded.wanted_at);
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
            v_marks.outcomes || v_up_to.outcomes, v_marks.reasons, v_marks.codes, v_marks.provider_ids) m;
        known := greatest(known - moved, 0);
    end if;
    return next;
end $$;

-- Tries up to p_limit waiting receipts again, and says how many it looked at. One waits as long again as it has waited, a minute
-- at most; after ten minutes it is given up, unless its delivery is there and has not ended. Anybody may call it, any number at once.
create function retry_receipts(p_limit int) returns bigint language plpgsql
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare r record; v record; m record;
begin
    select coalesce(array_agg(d.sender_id), '{}') as senders, array_agg(d.key) as keys, array_agg(d.broadcast_id) as broadcasts,
           array_agg(d.customer_id) as customers, array_agg(d.provider_id) as provider_ids, array_agg(d.outcome) as outcomes,
           array_agg(d.reason) as reasons, array_agg(d.code) as codes, array_agg(d.closes_address) as closes
      into r
      from (select p.* from pending_receipt p where p.due_at <= now()
             order by p.due_at limit p_limit for update skip locked) d;
    if cardinality(r.senders) = 0 then
        return 0;
    end if;
    select array_agg(f.broadcast_id order by f.place) as broadcasts, array_agg(f.channel order by f.place) as channels,
           array_agg(f.customer_id order by f.place) as customers, array_agg(f.fate order by f.place) as fates
      into v from receipt_find(r.senders, r.broadcasts, r.customers, r.provider_ids) f;
    delete from pending_receipt p
     using unnest(r.senders, r.keys, v.fates) as f (sender_id, key, fate)
     where p.sender_id = f.sender_id and p.key = f.key and f.fate in ('found', 'late');
    update pending_receipt p
       set due_at = case when f.fate = 'early' or p.received_at > now() - interval '10 minutes'
                         then now() + least(greatest(now() - p.received_at, interval '1 second'), interval '1 minute') end
      from unnest(r.senders, r.keys, v.fates) as f (sender_id, key, fate)
     where p.sender_id = f.sender_id and p.key = f.key and f.fate in ('early', 'nothing');
    select array_agg(f.sender_id) as senders, array_agg(f.broadcast_id) as broadcasts, array_agg(f.channel) as channels,
           array_agg(f.customer_id) as customers, array_agg(f.outcome) as outcomes, array_agg(f.reason) as reasons,
           array_agg(f.code) as codes, array_agg(f.provider_id) as provider_ids, array_agg(f.closes) as closes
      into m
      from unnest(r.senders, v.broadcasts, v.channels, v.customers, v.fates, r.outcomes, r.reasons, r.codes, r.provider_ids, r.closes)
           as f (sender_id, broadcast_id, channel, customer_id, fate, outcome, reason, code, provider_id, closes)
     where f.fate = 'found';
    if m.senders is not null then
        if true = any (m.closes) then
            perform close_failed_addresses(array_agg(f.sender_id), array_agg(f.broadcast_id), array_agg(f.channel),
                    array_agg(f.customer_id), array_agg(f.code))
               from unnest(m.senders, m.broadcasts, m.channels, m.customers, m.codes, m.closes)
                    as f (sender_id, broadcast_id, channel, customer_id, code, closes)
              where f.closes;
        end if;
        perform receipt_move(m.senders, m.broadcasts, m.channels, m.customers, m.outcomes, m.reasons, m.codes, m.provider_ids);
    end if;
    return cardinality(r.senders);
end $$;

-- Looks once more at what up to p_limit watermarks are about; returns how many.
create function recheck_watermarks(p_limit int) returns bigint language plpgsql
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
        perform receipt_move(m.senders, m.broadcasts, m.channels, m.customers, m.outcomes, null, null, null);
    end if;
    return cardinality(w.senders);
end $$;

-- Forgets receipts that matched nothing within 30 days, at most p_limit a call; returns how many.
create function forget_receipts(p_limit int) returns bigint language sql as $$
    with gone as (
        delete from pending_receipt p
         where (p.sender_id, p.key) in (select o.sender_id, o.key from pending_receipt o
                 where o.due_at is null and o.received_at < now() - interval '30 days' order by o.received_at limit p_limit)
        returning 1)
    select count(*) from gone
$$;

-- Of customers whose outcome nobody knows, those whom a receipt that waits for it proves to have the message.
create function proven_customers(p_broadcast uuid, p_channel channel, p_customers bigint[]) returns bigint[] language sql stable
    set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
    select coalesce(array_agg(t.customer_id), '{}')
      from (select p.customer_id
              from lane l
              join pending_receipt p on p.broadcast_id = l.broadcast_id and p.sender_id = l.sender_id
             where l.broadcast_id = p_broadcast and l.channel = p_channel and p.customer_id = any (p_customers)
             group by p.customer_id
            -- What failed afterwards is not charged either way.
            having bool_and(p.outcome <> 'failed')) t
$$;

-- As before, but who is proven to have the message is `accepted` and charged instead of `unknown`: the receipt came first.
create or replace function record_results(p_broadcast uuid, p_channel channel, p_slice_no int, p_customers bigint[],
        p_states delivery_state[], p_reasons text[], p_codes text[], p_provider_ids text[])
returns int language plpgsql set enable_seqscan = off set max_parallel_workers_per_gather = 0
    set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare v_tokens int; v_new int; v_accepted int; v_settles int; v_unposted int; v_first bigint; v_last bigint; v_lane_left bigint;
        v_states delivery_state[]; v_reasons text[]; v_counts bigint[]; v_proven bigint[];
begin
    if 'unknown' = any (p_states) then
        v_proven := proven_customers(p_broadcast, p_channel, p_customers);
        if cardinality(v_proven) > 0 then
            select array_agg(case when u.proven then 'accepted' else u.state end order by u.place),
                   array_agg(case when not u.proven then u.reason end order by u.place),
                   array_agg(case when not u.proven then u.code end order by u.place)
              into p_states, p_reasons, p_codes
              from (select t.place, t.state, t.reason, t.code, t.state = 'unknown' and t.customer = any (v_proven) as proven
                      from unnest(p_customers, p_states, p_reasons, p_codes)
                           with ordinality as t (customer, state, reason, code, place)) u;
        end if;
    end if;
    select tokens into strict v_tokens from lane where broadcast_id = p_broadcast and channel = p_channel;
    select settles, unposted, first_customer, last_customer into strict v_settles, v_unposted, v_first, v_last from slice
     where broadcast_id = p_broadcast and channel = p_channel and slice_no = p_slice_no;
    with added as (
        insert into delivery_result (broadcast_id, channel, customer_id, state, charged_tokens, reason, code, provider_id)
        select p_broadcast, p_channel, t.customer, t.state, case when t.state = 'accepted' then v_tokens else 0 end,
               t.reason, t.code, t.provider_id
          from unnest(p_customers, p_states, p_reasons, p_codes, p_provider_ids)
               as t (customer, state, reason, code, provider_id)
         -- The slice is locked, so looking is enough, and the first time there is nothing: `on conflict` would cost a fifth.
         -- With the slice's range, or the planner may choose to hash every result of the broadcast, for every settle.
         where v_settles = 0 or not exists (select from delivery_result r where r.broadcast_id = p_broadcast
                 and r.channel = p_channel and r.customer_id between v_first and v_last and r.customer_id = t.customer)
        returning state, reason),
    counted as (select state, reason, count(*) as n from added group by state, reason)
    select coalesce(sum(n), 0), coalesce(sum(n) filter (where state = 'accepted'), 0),
           array_agg(state order by state, reason), array_agg(reason order by state, reason), array_agg(n order by state, reason)
      into v_new, v_accepted, v_states, v_reasons, v_counts
      from counted;
    if v_new = 0 then
        return 0;
    end if;
    update slice
       set remaining = remaining - v_new, unposted = 0, settles = settles + 1,
           state = case when remaining = v_new then 'settled' else state end,
           lease_until = case when remaining = v_new then null else lease_until end,
           in_flight = case when remaining = v_new then null else in_flight end
     where broadcast_id = p_broadcast and channel = p_channel and slice_no = p_slice_no
    returning settles into v_settles;
    update lane set remaining = remaining - v_new - v_unposted where broadcast_id = p_broadcast and channel = p_channel
    returning remaining into v_lane_left;
    if v_lane_left = 0 then
        perform from broadcast where id = p_broadcast for update;
    end if;
    insert into tally (broadcast_id, stage, channel, outcome, reason, n)
    select p_broadcast, 'send', p_channel, t.state, t.reason, sum(t.n)
      from unnest(v_states || 'accepted'::delivery_state, v_reasons || null::text, v_counts || v_unposted::bigint) as t (state, reason, n)
     where t.n > 0 group by t.state, t.reason
    on conflict (broadcast_id, stage, channel, outcome, reason) do update set n = tally.n + excluded.n;
    perform ledger_settle(p_broadcast, p_channel, (v_accepted + v_unposted)::bigint * v_tokens, (v_new - v_accepted)::bigint * v_tokens,
        format('%s:%s:%s:%s', p_broadcast, p_channel, p_slice_no, v_settles));
    if v_lane_left = 0 then
        perform finish_broadcast(p_broadcast);
    end if;
    return v_new;
end $$;

-- With when a receipt last changed it.
create or replace view delivery_with_state as
select d.broadcast_id, d.channel, d.customer_id, d.address_id,
       coalesce(r.state, case when d.customer_id = any (s.in_flight) then 'sending' else 'queued' end::delivery_state) as state,
       r.reason, r.code, r.provider_id, coalesce(r.charged_tokens, 0) as charged_tokens, r.settled_at, r.changed_at
  from delivery d
  left join delivery_result r using (broadcast_id, channel, customer_id)
  left join slice s on r.state is null and s.broadcast_id = d.broadcast_id and s.channel = d.channel
        and s.state <> 'settled' and d.customer_id between s.first_customer and s.last_customer;

-- why: the broadcast, its channels and its state machine. The truth of "what is to be sent"; Redis only points here.

create table broadcast (
    -- A UUIDv7: the delivery tables are range-partitioned by it.
    id                uuid primary key check (substring(id::text, 15, 1) = '7'),
    shop_id           uuid not null references shop,
    name              text not null,
    purpose           text not null default 'marketing' check (purpose in ('marketing', 'test')),
    mode              text not null check (mode in ('app_plus_one', 'priority_single')),
    content           jsonb not null,
    -- {"all": true} | {"tag": "vip"} | {"customers": [1, 2]} | {"broadcast": "…", "outcomes": ["failed", "unknown"]}
    audience          jsonb not null,
    -- A plan that would cost more stops before the first message.
    budget_tokens     bigint check (budget_tokens >= 0),
    scheduled_at      timestamptz,
    deadline_hours    int not null default 24 check (deadline_hours between 1 and 720),
    deadline_at       timestamptz,

    state             text not null default 'draft' check (state in ('draft', 'scheduled', 'queued', 'planning',
                          'sending', 'completed', 'paused', 'compliance_review', 'cancelled', 'failed')),
    -- Where a paused broadcast goes on.
    resume_state      text check (resume_state in ('scheduled', 'queued', 'planning', 'sending')),
    state_reason      text,
    missing_tokens    bigint,

    -- Planning: everybody up to this customer is planned.
    plan_cursor       bigint not null default 0,
    plan_epoch        int not null default 0,
    plan_lease_until  timestamptz,
    planned_customers bigint not null default 0,
    cost_tokens       bigint not null default 0,
    -- Rows of a plan that will never be sent are deleted in steps; true while some may be left.
    purge             boolean not null default false,
    -- When the bell was last rung for planning; reconcile rings again when nobody came.
    rung_at           timestamptz,

    created_at        timestamptz not null default now(),
    queued_at         timestamptz,
    sending_at        timestamptz,
    finished_at       timestamptz,
    constraint paused_knows_where_to_resume check ((state = 'paused') = (resume_state is not null)),
    constraint scheduled_has_a_time check (state <> 'scheduled' or scheduled_at is not null),
    constraint failed_has_a_reason check (state <> 'failed' or state_reason is not null)
) with (fillfactor = 70);
create index broadcast_of_shop on broadcast (shop_id, id desc);
create index broadcast_to_do on broadcast (state) where state in ('scheduled', 'queued', 'planning', 'sending') or purge;

-- Which channels, in order of priority, from which sender, at which price a message.
create table broadcast_channel (
    broadcast_id uuid not null references broadcast on delete cascade,
    position     smallint not null,
    channel      channel not null,
    sender_id    uuid not null references sender,
    tokens       int not null check (tokens >= 0),
    planned      bigint not null default 0,
    primary key (broadcast_id, channel),
    unique (broadcast_id, position)
) with (fillfactor = 70);

-- The allowed moves, the same table as src/broadcast/state.rs; a test holds one against the other.
create function broadcast_may_move(p_from text, p_to text) returns boolean language sql immutable as $$
    select case p_from
        when 'draft'             then p_to in ('scheduled', 'queued', 'cancelled')
        when 'scheduled'         then p_to in ('queued', 'paused', 'cancelled', 'draft')
        when 'queued'            then p_to in ('planning', 'compliance_review', 'paused', 'cancelled', 'failed')
        when 'compliance_review' then p_to in ('queued', 'cancelled', 'failed')
        when 'planning'          then p_to in ('sending', 'completed', 'paused', 'cancelled', 'failed')
        when 'sending'           then p_to in ('completed', 'paused', 'cancelled')
        when 'paused'            then p_to in ('scheduled', 'queued', 'planning', 'sending', 'completed', 'cancelled')
        else false end
$$;

create function broadcast_guard_state() returns trigger language plpgsql as $$
begin
    if not broadcast_may_move(old.state, new.state) then
        raise exception 'a broadcast cannot go from % to %', old.state, new.state
            using errcode = 'check_violation', constraint = 'broadcast_state_moves';
    end if;
    return new;
end $$;
-- Once it is being planned a message is what it is: a repeat under the same key must have the same body.
create function broadcast_freeze_content() returns trigger language plpgsql as $$
begin
    raise exception 'the content of a broadcast in % cannot change; make a new one', old.state
        using errcode = 'check_violation', constraint = 'broadcast_content_frozen';
end $$;
create trigger broadcast_content_frozen before update of content on broadcast for each row
    when (old.content is distinct from new.content and old.state not in ('draft', 'scheduled', 'queued', 'compliance_review'))
    execute function broadcast_freeze_content();
create trigger broadcast_state_moves before update of state on broadcast
    for each row when (old.state is distinct from new.state) execute function broadcast_guard_state();

-- A new broadcast's id: a UUIDv7 by this server's clock.
create function new_broadcast_id() returns uuid language sql volatile as $$
    select encode(set_byte(set_byte(
        overlay(uuid_send(gen_random_uuid()) placing
            substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
        6, (get_byte(uuid_send(gen_random_uuid()), 0) & 15) | 112),
        8, (get_byte(uuid_send(gen_random_uuid()), 1) & 63) | 128), 'hex')::uuid
$$;

-- Stores a draft and returns its id. Channels in order of priority, each from its primary sender: the shop's own, else
-- the platform's. What else a broadcast has (scheduled_at, budget_tokens, other senders) is set on its rows before
-- send_broadcast. The message itself is checked when planning begins; `carillon broadcast create` checks it at once.
create function draft_broadcast(p_shop uuid, p_name text, p_mode text, p_channels channel[], p_content jsonb, p_audience jsonb)
returns uuid language plpgsql as $$
declare v_id uuid := new_broadcast_id(); v_channel channel; v_position int := 0; v_sender uuid;
begin
    insert into broadcast (id, shop_id, name, mode, content, audience)
    values (v_id, p_shop, p_name, p_mode, p_content, p_audience);
    foreach v_channel in array p_channels loop
        select id into v_sender from sender
         where channel = v_channel and is_primary and (shop_id = p_shop or shop_id is null)
         order by shop_id nulls last limit 1;
        if v_sender is null then
            raise exception 'shop % has no primary sender on %; connect one first', p_shop, v_channel using errcode = 'no_data_found';
        end if;
        insert into broadcast_channel (broadcast_id, position, channel, sender_id, tokens)
        values (v_id, v_position, v_channel, v_sender, 0);
        v_position := v_position + 1;
    end loop;
    return v_id;
end $$;

-- A frontend calls this in its own transaction, then rings. Due broadcasts become `queued`, later ones `scheduled`.
-- Sending one that is already on its way changes nothing. Returns the state.
create function send_broadcast(p_id uuid) returns text language plpgsql as $$
declare v_state text;
begin
    update broadcast
       set state = case when scheduled_at > now() then 'scheduled' else 'queued' end,
           queued_at = case when scheduled_at > now() then null else now() end
     where id = p_id and (state = 'draft' or (state = 'scheduled' and scheduled_at <= now()))
    returning state into v_state;
    if found then
        return v_state;
    end if;
    select state into v_state from broadcast where id = p_id;
    if v_state is null then
        raise exception 'there is no broadcast %', p_id using errcode = 'no_data_found';
    end if;
    return v_state;
end $$;

-- Holds a broadcast where it is. Messages already handed to a provider are not called back.
create function pause_broadcast(p_id uuid) returns boolean language plpgsql as $$
begin
    update broadcast set resume_state = state, state = 'paused'
     where id = p_id and state in ('scheduled', 'queued', 'planning', 'sending');
    return found;
end $$;

-- Lets a paused broadcast go on where it was, its lanes due at once: exactly the rest is sent. Ring afterwards.
create function resume_broadcast(p_id uuid) returns boolean language plpgsql as $$
begin
    -- Lanes before the broadcast: settles lock them in this order.
    update lane set due_at = now()
     where broadcast_id = p_id and remaining > 0 and exists (select from broadcast where id = p_id and state = 'paused');
    update broadcast set state = resume_state, resume_state = null where id = p_id and state = 'paused';
    return found;
end $$;

-- Ends a broadcast: what has not left yet never will, and its tokens go back. In `sending` the workers do the rest.
create function cancel_broadcast(p_id uuid) returns boolean language plpgsql as $$
begin
    -- A lane that waits for its provider need not wait to give its tokens back. Lanes before the broadcast, as everywhere.
    perform from lane where broadcast_id = p_id order by sender_id for update;
    update broadcast
       set state = 'cancelled', resume_state = null,
           purge = coalesce(resume_state, state) = 'planning',
           finished_at = case when coalesce(resume_state, state) = 'sending' then null else now() end
     where id = p_id and state in ('draft', 'scheduled', 'queued', 'compliance_review', 'planning', 'sending', 'paused');
    if not found then
        return false;
    end if;
    update lane set due_at = now() where broadcast_id = p_id and due_at > now();
    return true;
end $$;

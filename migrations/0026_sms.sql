-- why: text messages. A carrier in Taiwan takes them only from a sender it knows, and with no link and no number that was not registered
-- before; so who a sender is and what it registered stands here, and a broadcast that carries more waits for a person. One number typed
-- in two ways is one address. And what left by one account must not be repeated by another, which knows nothing of it.

-- Only writers wait; the event's rule is the one thing that keeps readers out, for a moment.
lock table address, sender in share row exclusive mode;
lock table event in access exclusive mode;

-- When a sender's credentials were last replaced; no row: never since this was counted.
create table credentials_change (
    sender_id  uuid primary key references sender on delete cascade,
    changed_at timestamptz not null default now()
);
create function sender_credentials_changed() returns trigger language plpgsql as $$
begin
    insert into credentials_change (sender_id, changed_at) values (new.id, clock_timestamp())
    on conflict (sender_id) do update set changed_at = excluded.changed_at;
    return null;
end $$;
create trigger sender_credentials_changed after update of credentials on sender for each row
    when (old.credentials is distinct from new.credentials) execute function sender_credentials_changed();

-- A phone number in the form in which it is stored: +886912345678. What is no number stays as it is, and is refused when it is sent to.
-- The same rule as `phone::e164` in Rust; a test holds one against the other.
create function normal_phone(p_text text) returns text language plpgsql immutable as $$
declare v_plain text := translate(btrim(p_text, E' \u00a0\u202f\u3000\t\n\r'), '０１２３４５６７８９＋', '0123456789+'); v_digits text; v_national text;
begin
    v_digits := translate(v_plain, E' \u00a0\u202f\u3000()（）-.．－\u2010\u2011\u2012\u2013\u2014\u2015\u2212', '');
    if v_digits !~ '^\+?[0-9]+$' then
        return p_text;
    end if;
    -- A plus sign stands first or not at all.
    if v_digits like '+%' and v_plain not like '+%' then
        return p_text;
    end if;
    if v_digits ~ '^(002886|00886)' then
        v_national := regexp_replace(v_digits, '^(002886|00886)', '');
    elsif v_digits ~ '^\+?886' then
        v_national := regexp_replace(v_digits, '^\+?886', '');
    elsif v_digits like '+%' then
        return case when v_digits ~ '^\+[1-9][0-9]{7,14}$' then v_digits else p_text end;
    elsif v_digits like '0%' then
        v_national := substr(v_digits, 2);
        return case when v_national ~ '^0?[1-9][0-9]{7,8}$' then '+886' || ltrim(v_national, '0') else p_text end;
    else
        return p_text;
    end if;
    return case when v_national ~ '^0?[1-9][0-9]{7,8}$' then '+886' || ltrim(v_national, '0') else p_text end;
end $$;

-- Whoever writes an address, a number is stored in its one form. What begins like no number pays one comparison.
create function address_is_a_phone() returns trigger language plpgsql as $$
begin
    if exists (select from sender where id = new.sender_id and channel = 'sms') then
        new.address := normal_phone(new.address);
    end if;
    return new;
end $$;
create trigger address_is_a_phone before insert or update of address on address for each row
    when (new.address ~ '^[\s0-9+０-９＋(（]') execute function address_is_a_phone();

-- Records that this customer has this address on this sender now; it becomes the current one.
create or replace function put_address(p_sender uuid, p_customer bigint, p_address text) returns bigint language plpgsql as $$
declare v_id bigint;
begin
    if exists (select from sender where id = p_sender and channel = 'sms') then
        p_address := normal_phone(p_address);
    end if;
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

-- Who a text message sender is, as the carriers were told; without it nothing leaves. Its history stands in the operators' log.
create table sms_identity (
    sender_id     uuid primary key references sender on delete cascade,
    -- The registered name; every message states it.
    approved_name text not null constraint sms_identity_has_a_name check (btrim(approved_name) <> '' and length(approved_name) <= 60),
    recorded_by   text not null,
    recorded_at   timestamptz not null default now()
);

-- Links and numbers that were registered with the carriers for a sender.
create table sms_registration (
    sender_id     uuid not null references sender on delete cascade,
    kind          text not null check (kind in ('link', 'phone')),
    -- A link: host and path, and whatever is below it. A number as addresses have it, or the digits of a service number.
    value         text not null check (value <> '' and length(value) <= 1000),
    registered_by text not null,
    registered_at timestamptz not null default now(),
    primary key (sender_id, kind, value)
);

create function sms_sender_or_fail(p_sender uuid) returns void language plpgsql as $$
begin
    if not exists (select from sender where id = p_sender and channel = 'sms') then
        raise exception 'there is no text message sender %', p_sender using errcode = 'no_data_found';
    end if;
end $$;

-- Records who a sender is; called again it replaces what was recorded.
create function record_sms_identity(p_sender uuid, p_name text, p_by text, p_reason text) returns void language plpgsql as $$
begin
    perform sms_sender_or_fail(p_sender);
    perform log_operator_action(p_by, 'sms.identity', 'sender ' || p_sender, p_reason);
    insert into sms_identity (sender_id, approved_name, recorded_by) values (p_sender, p_name, p_by)
    on conflict (sender_id) do update
        set approved_name = excluded.approved_name, recorded_by = excluded.recorded_by, recorded_at = now();
end $$;

-- Records that a link or number is registered, or no longer is. False: it was so already.
create function register_sms(p_sender uuid, p_kind text, p_value text, p_is_registered boolean, p_by text, p_reason text)
returns boolean language plpgsql as $$
begin
    perform sms_sender_or_fail(p_sender);
    if p_is_registered then
        insert into sms_registration (sender_id, kind, value, registered_by) values (p_sender, p_kind, p_value, p_by)
        on conflict do nothing;
    else
        delete from sms_registration where sender_id = p_sender and kind = p_kind and value = p_value;
    end if;
    if found then
        perform log_operator_action(p_by, case when p_is_registered then 'sms.register' else 'sms.unregister' end,
            'sender ' || p_sender, p_kind || ' ' || left(p_value, 200) || ': ' || p_reason);
        return true;
    end if;
    return false;
end $$;

-- What a broadcast's text message carries that is not registered, and what a person decided about it. A decision is about one text from
-- one sender (`digest`); another one is asked about anew.
create table compliance_review (
    broadcast_id uuid primary key references broadcast on delete cascade,
    digest       text not null,
    -- ["link shop.example/sale", "phone +886912345678"]
    findings     jsonb not null check (jsonb_typeof(findings) = 'array' and jsonb_array_length(findings) > 0),
    asked_at     timestamptz not null default now(),
    decision     text check (decision in ('cleared', 'rejected')),
    decided_by   text,
    decided_at   timestamptz,
    reason       text,
    constraint decision_has_its_person check ((decision is null) = (decided_by is null) and (decision is null) = (decided_at is null))
);
create index compliance_review_open on compliance_review (asked_at) where decision is null;

-- A broadcast that waits for a person is told to frontends. Rows there are fit the wider rule, so nothing need be read again.
alter table event drop constraint event_kind_check;
alter table event add constraint event_kind_check
    check (kind in ('balance_low', 'refill_done', 'top_up_settled', 'broadcast_finished', 'broadcast_in_review')) not valid;

-- Asks for a person's decision about this text, unless there is one. `cleared`: it may go; `waiting`: it may not. A broadcast whose time
-- has come waits in compliance_review; one that is scheduled for later stays so, and can be decided before. The caller has its row's lock.
create function ask_for_review(p_broadcast uuid, p_digest text, p_findings jsonb, p_may_be_cleared boolean)
returns text language plpgsql as $$
declare v_shop uuid; v_what text;
begin
    if p_may_be_cleared and exists (select from compliance_review
            where broadcast_id = p_broadcast and digest = p_digest and decision = 'cleared') then
        return 'cleared';
    end if;
    insert into compliance_review as r (broadcast_id, digest, findings) values (p_broadcast, p_digest, p_findings)
    on conflict (broadcast_id) do update
        set digest = excluded.digest, findings = excluded.findings, asked_at = now(), decision = null, decided_by = null,
            decided_at = null, reason = null
        where r.digest <> excluded.digest or r.findings <> excluded.findings or r.decision is not null;
    select string_agg(f, ', ') into v_what from jsonb_array_elements_text(p_findings) as f;
    update broadcast set state = 'compliance_review', state_reason = left('unregistered: ' || v_what, 500), rung_at = null
     where id = p_broadcast and state = 'queued'
    returning shop_id into v_shop;
    if found then
        perform emit_event(v_shop, 'broadcast_in_review', p_broadcast::text,
            jsonb_build_object('findings', jsonb_array_length(p_findings)));
    end if;
    return 'waiting';
end $$;

-- Decides: `cleared` lets the broadcast go on to be planned, `rejected` ends it, with nothing held. Returns the state it is in then,
-- or `none` when nothing of it waits for a decision. Ring afterwards.
create function decide_review(p_broadcast uuid, p_decision text, p_by text, p_reason text) returns text language plpgsql as $$
declare v_state text;
begin
    select b.state into v_state from broadcast b join compliance_review r on r.broadcast_id = b.id
     where b.id = p_broadcast and r.decision is null and b.state in ('compliance_review', 'scheduled') for update;
    if not found then
        return 'none';
    end if;
    perform log_operator_action(p_by, case p_decision when 'cleared' then 'sms.review.clear' else 'sms.review.reject' end,
        'broadcast ' || p_broadcast, p_reason);
    update compliance_review set decision = p_decision, decided_by = p_by, decided_at = now(), reason = p_reason
     where broadcast_id = p_broadcast;
    if p_decision = 'rejected' then
        update broadcast
           set state = case v_state when 'scheduled' then 'cancelled' else 'failed' end,
               state_reason = left('compliance_rejected: ' || p_reason, 500), finished_at = now()
         where id = p_broadcast returning state into v_state;
    elsif v_state = 'compliance_review' then
        update broadcast set state = 'queued', state_reason = null, queued_at = now(), rung_at = null
         where id = p_broadcast returning state into v_state;
    end if;
    return v_state;
end $$;

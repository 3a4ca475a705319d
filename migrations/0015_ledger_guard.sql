-- why: what the ledger promises must hold for hand-written SQL, too. And where a person moves tokens, it must be known who,
-- why, and that a second person agreed.

-- What people did by hand: appended, never changed. Everything an operator does to money is here, in the transaction that did it.
create table operator_action (
    id      bigint generated always as identity primary key,
    at      timestamptz not null default now(),
    -- The person's name, as in `--by`.
    actor   text not null constraint operator_action_names_its_actor check (btrim(actor) <> '' and length(actor) <= 60),
    -- What was done, such as `adjust.request` or `top_up.mark_charged`.
    action  text not null constraint operator_action_is_a_word check (action ~ '^[a-z_]+(\.[a-z_]+)*$' and length(action) <= 60),
    -- What it was done to, such as `adjustment 12`: ids only, never a person's data.
    subject text not null constraint operator_action_names_its_subject check (btrim(subject) <> '' and length(subject) <= 200),
    reason  text not null constraint operator_action_has_a_reason check (btrim(reason) <> '' and length(reason) <= 500)
);
create index operator_action_of_subject on operator_action (subject, id);

create function operator_action_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'what an operator did is never changed or deleted' using errcode = 'restrict_violation';
end $$;
create trigger operator_action_append_only before update or delete on operator_action
    for each row execute function operator_action_is_append_only();
create trigger operator_action_no_truncate before truncate on operator_action
    for each statement execute function operator_action_is_append_only();

-- Called in the transaction that does what it tells of, so neither is there without the other. Returns the row's id.
create function log_operator_action(p_actor text, p_action text, p_subject text, p_reason text) returns bigint
language sql as $$
    insert into operator_action (actor, action, subject, reason)
    values (btrim(p_actor), p_action, p_subject, btrim(p_reason)) returning id
$$;

-- The ledger's door. Accounts, entries and holds are written only from inside its trigger, where every move writes all that
-- belongs to it; a statement that reaches for the tables themselves is refused before it touches a row. So an overdraft, a
-- balance without its entry, an entry that does not follow the one before it, or a hold that moved without either cannot be
-- written by hand. Guards that compare rows afterwards were measured: they cost a settle 5 to 10 %, the door costs it 2 to 3 %.
-- What it cannot stop is who changes the schema or switches triggers off; the audit finds what they leave.
--
-- All locks at once, the broadcast first: every settle, claim and plan reads its broadcast before it calls the ledger. So all of them
-- have ended, or wait there and then call the functions as they are below. One that waited in the middle of an old function would
-- come to the door from outside and be refused, with results of messages that were sent.
lock table broadcast, token_hold, token_account, ledger_entry in access exclusive mode;

create view ledger_move as
select null::text as move, null::uuid as shop_id, null::uuid as broadcast_id, null::channel as channel, null::text as operation,
       null::text as kind, null::bigint as captured, null::bigint as released, null::bigint as allowance, null::bigint as extra,
       null::bigint as result
 where false;

create function ledger_moves() returns trigger language plpgsql as $$
begin
    -- In the order in which they are frequent.
    case new.move
        when 'settle' then
            perform ledger_settle(new.broadcast_id, new.channel, new.captured, new.released, new.operation);
        when 'hold' then
            new.result := ledger_hold_inside(new.broadcast_id, new.shop_id, new.captured);
        when 'refund' then
            perform ledger_refund_inside(new.broadcast_id, new.channel, new.captured, new.operation);
        when 'refill' then
            new.result := ledger_refill_inside(new.shop_id, new.operation, new.allowance)::int;
        when 'top_up' then
            new.result := ledger_top_up_inside(new.shop_id, new.extra, new.operation)::int;
        when 'post' then
            -- What belongs to a hold moves with its hold, what is granted or expires with its refill, and a correction needs two
            -- persons. A refund's order must have its entry before it may say so.
            if new.kind is distinct from 'top_up_refund' then
                raise exception 'an entry of kind % is posted only by the move it belongs to', new.kind
                    using errcode = 'restrict_violation', constraint = 'ledger_has_one_door';
            end if;
            perform ledger_post(new.shop_id, new.kind, new.operation, new.broadcast_id, new.channel, new.allowance, new.extra, 0, 0);
    end case;
    return new;
end $$;
create trigger ledger_moves instead of insert on ledger_move for each row execute function ledger_moves();

create function ledger_has_one_door() returns trigger language plpgsql as $$
begin
    raise exception '% is written by the ledger''s functions only, such as ledger_settle', tg_table_name
        using errcode = 'restrict_violation', constraint = 'ledger_has_one_door', table = tg_table_name;
end $$;
-- For each statement, not each row: what comes through the door pays one comparison.
create trigger entries_have_one_door before insert on ledger_entry
    for each statement when (pg_trigger_depth() = 0) execute function ledger_has_one_door();
create trigger balances_have_one_door before update of shop_id, allowance, extra, held_allowance, held_extra, allowance_period
    on token_account for each statement when (pg_trigger_depth() = 0) execute function ledger_has_one_door();
create trigger accounts_begin_empty before insert on token_account for each row
    when (new.allowance <> 0 or new.extra <> 0 or new.held_allowance <> 0 or new.held_extra <> 0 or new.allowance_period <> '')
    execute function ledger_has_one_door();
create trigger accounts_stay before delete or truncate on token_account
    for each statement execute function ledger_has_one_door();
create trigger holds_have_one_door before insert or update of broadcast_id, shop_id, period, allowance, extra, open_allowance,
    open_extra, captured_allowance, captured_extra, released, refunded_allowance, refunded_extra on token_hold
    for each statement when (pg_trigger_depth() = 0) execute function ledger_has_one_door();
create trigger holds_stay before delete or truncate on token_hold
    for each statement execute function ledger_has_one_door();
-- Closing is the broadcast's business (`closed_hold_is_empty` sees to the rest); nothing opens a hold again.
create trigger closed_holds_stay_closed before update of state on token_hold for each row
    when (old.state = 'closed' and new.state <> 'closed') execute function ledger_has_one_door();

-- What an entry may say, by its kind. A function, because Postgres reads the text of a CHECK anew for every statement: written
-- out there, this one cost a settle more than everything else the ledger does. Not valid: reading all entries here would keep
-- every settle waiting, and those from before passed the rule before.
create function ledger_entry_fits(p_kind text, p_operation text, p_broadcast uuid, p_allowance bigint, p_extra bigint,
        p_held_allowance bigint, p_held_extra bigint) returns boolean language plpgsql immutable as $$
begin
    return starts_with(p_operation, p_kind || ':')
       and case p_kind
           when 'capture' then p_broadcast is not null and p_allowance <= 0 and p_extra <= 0
                               and p_held_allowance = p_allowance and p_held_extra = p_extra
           when 'release' then p_broadcast is not null and p_allowance = 0 and p_extra = 0
                               and p_held_allowance <= 0 and p_held_extra <= 0
           when 'hold'    then p_broadcast is not null and p_allowance = 0 and p_extra = 0
                               and p_held_allowance >= 0 and p_held_extra >= 0
           when 'refund'  then p_broadcast is not null and p_allowance >= 0 and p_extra >= 0
                               and p_held_allowance = 0 and p_held_extra = 0
           when 'grant'   then p_allowance >= 0 and p_extra = 0 and p_held_allowance = 0 and p_held_extra = 0
           when 'expire'  then p_allowance <= 0 and p_extra = 0 and p_held_allowance = 0 and p_held_extra = 0
           when 'top_up'  then p_allowance = 0 and p_extra >= 0 and p_held_allowance = 0 and p_held_extra = 0
           when 'top_up_refund' then p_allowance = 0 and p_extra < 0 and p_held_allowance = 0 and p_held_extra = 0
           when 'adjust'  then p_held_allowance = 0 and p_held_extra = 0
           else false end;
end $$;
alter table ledger_entry
    drop constraint ledger_entry_kind_check,
    drop constraint kind_moves_its_own_way,
    add constraint kind_moves_its_own_way check (ledger_entry_fits(kind, operation, broadcast_id, allowance, extra,
        held_allowance, held_extra)) not valid;

-- The functions of the ledger, each with its door: called from outside it goes through, and comes back here inside.
create or replace function ledger_post(p_shop uuid, p_kind text, p_operation text, p_broadcast uuid, p_channel channel,
        p_allowance bigint, p_extra bigint, p_held_allowance bigint, p_held_extra bigint)
returns void language plpgsql as $$
begin
    if pg_trigger_depth() = 0 then
        insert into ledger_move (move, shop_id, kind, operation, broadcast_id, channel, allowance, extra)
        values ('post', p_shop, p_kind, p_operation, p_broadcast, p_channel, p_allowance, p_extra);
        return;
    end if;
    with v as (
        update token_account
           set allowance = allowance + p_allowance, extra = extra + p_extra,
               held_allowance = held_allowance + p_held_allowance, held_extra = held_extra + p_held_extra
         where shop_id = p_shop returning *)
    insert into ledger_entry (shop_id, kind, operation, broadcast_id, channel, allowance, extra, held_allowance,
        held_extra, allowance_after, extra_after, held_allowance_after, held_extra_after)
    select p_shop, p_kind, p_operation, p_broadcast, p_channel, p_allowance, p_extra, p_held_allowance,
           p_held_extra, v.allowance, v.extra, v.held_allowance, v.held_extra from v;
    if not found then
        raise exception 'shop % has no token account', p_shop using errcode = 'no_data_found';
    end if;
end $$;

-- Spends p_captured and gives back p_released tokens of a broadcast's hold. Captures spend the allowance first and
-- releases give back the extra first, so that the order of settles never changes who paid. Allowance of a period that
-- has ended expires instead of returning.
create or replace function ledger_settle(p_broadcast uuid, p_channel channel, p_captured bigint, p_released bigint, p_operation text)
returns void language plpgsql as $$
declare h record; v_period text;
begin
    if pg_trigger_depth() = 0 then
        insert into ledger_move (move, broadcast_id, channel, captured, released, operation)
        values ('settle', p_broadcast, p_channel, p_captured, p_released, p_operation);
        return;
    end if;
    -- A negative number would move the hold and post nothing.
    if p_captured < 0 or p_released < 0 then
        raise exception 'captured and released are numbers of tokens, not % and %', p_captured, p_released
            using errcode = 'invalid_parameter_value';
    end if;
    if p_captured + p_released = 0 then
        return;
    end if;
    with held as (
        select shop_id, period, ca, p_captured - ca as ce, p_released - re as ra, re
          from token_hold,
               lateral (select least(p_captured, open_allowance) as ca) a,
               lateral (select least(p_released, open_extra - (p_captured - ca)) as re) e
         where broadcast_id = p_broadcast for update of token_hold)
    update token_hold t
       set open_allowance = t.open_allowance - ca - ra, open_extra = t.open_extra - ce - re,
           captured_allowance = t.captured_allowance + ca, captured_extra = t.captured_extra + ce,
           released = t.released + p_released
      from held where t.broadcast_id = p_broadcast
    returning held.* into strict h;
    if p_captured > 0 then
        perform ledger_post(h.shop_id, 'capture', 'capture:' || p_operation, p_broadcast, p_channel, -h.ca, -h.ce, -h.ca, -h.ce);
    end if;
    if p_released > 0 then
        perform ledger_post(h.shop_id, 'release', 'release:' || p_operation, p_broadcast, p_channel, 0, 0, -h.ra, -h.re);
        -- The row is ours since the post above, so the period read here cannot change under us.
        select allowance_period into v_period from token_account where shop_id = h.shop_id;
        if h.ra > 0 and v_period <> h.period then
            perform ledger_post(h.shop_id, 'expire', 'expire:' || p_operation, p_broadcast, p_channel, -h.ra, 0, 0, 0);
        end if;
    end if;
end $$;

-- The others run seldom: what they do keeps its text, under a name for the inside.
alter function ledger_hold(uuid, uuid, bigint) rename to ledger_hold_inside;
alter function ledger_refund(uuid, channel, bigint, text) rename to ledger_refund_inside;
alter function ledger_refill(uuid, text, bigint) rename to ledger_refill_inside;
alter function ledger_top_up(uuid, bigint, text) rename to ledger_top_up_inside;

-- Sets aside p_cost tokens for a broadcast, allowance first. Returns the number of tokens missing: 0 means held,
-- anything else means nothing was held.
create function ledger_hold(p_broadcast uuid, p_shop uuid, p_cost bigint) returns bigint language plpgsql as $$
declare v_missing bigint;
begin
    insert into ledger_move (move, broadcast_id, shop_id, captured) values ('hold', p_broadcast, p_shop, p_cost)
    returning result into v_missing;
    return v_missing;
end $$;

-- Gives back p_tokens that were captured for a delivery which failed for good afterwards: last spent, first returned.
create function ledger_refund(p_broadcast uuid, p_channel channel, p_tokens bigint, p_operation text)
returns void language plpgsql as $$
begin
    insert into ledger_move (move, broadcast_id, channel, captured, operation)
    values ('refund', p_broadcast, p_channel, p_tokens, p_operation);
end $$;

-- Sets a shop's allowance to what its plan grants for a period: what is neither spent nor held of the old one expires.
-- Once per shop and period, and never for a period before the current one; returns whether it did anything.
create function ledger_refill(p_shop uuid, p_period text, p_allowance bigint) returns boolean language plpgsql as $$
declare v_did bigint;
begin
    insert into ledger_move (move, shop_id, operation, allowance) values ('refill', p_shop, p_period, p_allowance)
    returning result into v_did;
    return v_did = 1;
end $$;

-- Adds bought tokens. The same operation twice adds them once; returns whether it did anything.
create function ledger_top_up(p_shop uuid, p_tokens bigint, p_operation text) returns boolean language plpgsql as $$
declare v_did bigint;
begin
    insert into ledger_move (move, shop_id, operation, extra) values ('top_up', p_shop, p_operation, p_tokens)
    returning result into v_did;
    return v_did = 1;
end $$;

-- The calendar's refill writes a million accounts and two million entries: one step of it goes through the door as a whole.
do $door$ begin
    if to_regprocedure('refill_locked(uuid[])') is null then
        return;
    end if;
    execute $$
        create view ledger_refill_move as
        select null::uuid[] as shops, null::uuid[] as shop_ids, null::text[] as periods, null::text[] as outcomes,
               null::boolean[] as lates
         where false
    $$;
    execute $$ alter function refill_locked(uuid[]) rename to refill_locked_inside $$;
    execute $$
        create function ledger_refill_moves() returns trigger language plpgsql as $f$
        begin
            select array_agg(r.shop_id), array_agg(r.period), array_agg(r.outcome), array_agg(r.late)
              into new.shop_ids, new.periods, new.outcomes, new.lates
              from refill_locked_inside(new.shops) r;
            return new;
        end $f$
    $$;
    execute $$
        create trigger ledger_refill_moves instead of insert on ledger_refill_move
            for each row execute function ledger_refill_moves()
    $$;
    execute $$
        create function refill_locked(p_shops uuid[])
        returns table (shop_id uuid, period text, outcome text, late boolean) language plpgsql as $f$
        declare v ledger_refill_move;
        begin
            insert into ledger_refill_move (shops) values (p_shops) returning * into v;
            return query select * from unnest(v.shop_ids, v.periods, v.outcomes, v.lates);
        end $f$
    $$;
end $door$;

-- Corrections of a balance by hand. One person asks, another one agrees, and what was asked for is never changed.
create table token_adjustment (
    id           bigint generated always as identity primary key,
    shop_id      uuid not null references token_account,
    -- What is added to each bucket; less than zero: taken away.
    allowance    bigint not null,
    extra        bigint not null,
    reason       text not null constraint adjustment_has_a_reason check (btrim(reason) <> '' and length(reason) <= 500),
    requested_by text not null constraint adjustment_is_asked_by_somebody check (btrim(requested_by) <> '' and length(requested_by) <= 60),
    requested_at timestamptz not null default now(),
    state        text not null default 'requested' check (state in ('requested', 'applied', 'rejected')),
    decided_by   text constraint adjustment_decider_has_a_name check (btrim(decided_by) <> '' and length(decided_by) <= 60),
    decided_at   timestamptz,
    -- Why it was refused; who agrees, agrees to the reason above.
    decided_why  text constraint adjustment_refusal_has_a_reason check (btrim(decided_why) <> '' and length(decided_why) <= 500),
    constraint adjustment_moves_something check (allowance <> 0 or extra <> 0),
    constraint adjustment_is_decided_by_somebody check ((state = 'requested') = (decided_by is null)),
    -- Who asks may take it back, but not agree to it.
    constraint adjustment_needs_a_second_person check
        (state <> 'applied' or lower(btrim(decided_by)) <> lower(btrim(requested_by)))
);
create index token_adjustment_open on token_adjustment (id) where state = 'requested';

-- An adjustment is born as a request and decided once. To apply it *is* to post it: neither is ever there without the other.
create function token_adjustment_moves() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        if new.state <> 'requested' then
            raise exception 'an adjustment begins as a request' using errcode = 'restrict_violation',
                constraint = 'adjustment_begins_as_a_request';
        end if;
        return new;
    end if;
    if tg_op <> 'UPDATE' then
        raise exception 'an adjustment is never deleted' using errcode = 'restrict_violation', constraint = 'adjustment_is_decided_once';
    end if;
    if old.state <> 'requested' or new.state = 'requested'
        or (old.id, old.shop_id, old.allowance, old.extra, old.reason, old.requested_by, old.requested_at)
           is distinct from (new.id, new.shop_id, new.allowance, new.extra, new.reason, new.requested_by, new.requested_at) then
        raise exception 'an adjustment is decided once and not changed otherwise' using errcode = 'restrict_violation',
            constraint = 'adjustment_is_decided_once';
    end if;
    new.decided_at := now();
    return new;
end $$;
create trigger token_adjustment_moves before insert or update or delete on token_adjustment
    for each row execute function token_adjustment_moves();
create trigger token_adjustment_stays before truncate on token_adjustment
    for each statement execute function token_adjustment_moves();

-- After the row's own constraints have agreed.
create function token_adjustment_is_told() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        perform log_operator_action(new.requested_by, 'adjust.request', 'adjustment ' || new.id, new.reason);
        return null;
    end if;
    perform log_operator_action(new.decided_by, case new.state when 'applied' then 'adjust.approve' else 'adjust.reject' end,
        'adjustment ' || new.id, coalesce(new.decided_why, new.reason));
    if new.state = 'applied' then
        perform ledger_post(new.shop_id, 'adjust', 'adjust:' || new.id, null, null, new.allowance, new.extra, 0, 0);
    end if;
    return null;
end $$;
create trigger token_adjustment_is_told after insert or update on token_adjustment
    for each row execute function token_adjustment_is_told();

-- Asks for a correction; returns the id that another person approves.
create function request_adjustment(p_shop uuid, p_allowance bigint, p_extra bigint, p_reason text, p_by text) returns bigint
language sql as $$
    insert into token_adjustment (shop_id, allowance, extra, reason, requested_by)
    values (p_shop, p_allowance, p_extra, btrim(p_reason), btrim(p_by)) returning id
$$;
-- Decides a request: p_state is `applied` or `rejected`, p_why the reason of a refusal. Returns `done`; `repeated` where it was decided so before, else the
-- state it is in; null: there is no such request. Two at once: the second waits and finds it decided.
create function decide_adjustment(p_id bigint, p_state text, p_by text, p_why text) returns text language plpgsql as $$
declare v_state text;
begin
    select state into v_state from token_adjustment where id = p_id for update;
    if not found or v_state <> 'requested' then
        return case when v_state = p_state then 'repeated' else v_state end;
    end if;
    update token_adjustment set state = p_state, decided_by = btrim(p_by), decided_why = btrim(p_why) where id = p_id;
    return 'done';
end $$;

-- What a shop spent: tokens by month (of the shop's own clock) and channel. `refunded` counts in the month of the refund.
create view token_usage as
select e.shop_id, to_char(e.at at time zone s.time_zone, 'YYYY-MM') as month, e.channel,
       coalesce(-sum(e.allowance + e.extra) filter (where e.kind = 'capture'), 0)::bigint as captured,
       coalesce(sum(e.allowance + e.extra) filter (where e.kind = 'refund'), 0)::bigint as refunded,
       -sum(e.allowance + e.extra)::bigint as spent
  from ledger_entry e join shop s on s.id = e.shop_id
 where e.kind in ('capture', 'refund')
 group by e.shop_id, to_char(e.at at time zone s.time_zone, 'YYYY-MM'), e.channel;

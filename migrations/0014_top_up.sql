-- why: a shop that runs short buys tokens. An order is priced when it is requested, charged outside of here, and credited once,
-- at the time its charge earned. The order and its credit change in one transaction, so no crash can part them.

create table top_up_order (
    -- Names the credit, too: its ledger entry is `top_up:ID`, of which there can be one.
    id                uuid primary key default new_broadcast_id(),
    shop_id           uuid not null references shop,
    -- What was ordered, at the price of that moment; a later price list changes nothing here.
    package_blocks    int not null check (package_blocks > 0),
    quantity          int not null constraint top_up_quantity_in_range check (quantity between 1 and 1000),
    blocks            int not null,
    tokens            bigint not null check (tokens > 0),
    package_price_twd bigint not null check (package_price_twd >= 0),
    price_twd         bigint not null,
    -- The price table that was in force: `price_table.version`.
    price_version     text not null check (price_version <> ''),
    state             text not null default 'requested' check (state in ('requested', 'charged', 'settled', 'failed', 'refunded')),
    requested_at      timestamptz not null default now(),
    -- The charge: who took it, what they call it, when, and when the tokens are due for it.
    gateway           text check (gateway <> ''),
    payment_reference text check (btrim(payment_reference) <> '' and length(payment_reference) <= 100),
    charged_at        timestamptz,
    credit_at         timestamptz,
    -- When a worker looks at it: `credit_at`, or later where crediting was refused and a person has to look first.
    due_at            timestamptz,
    settled_at        timestamptz,
    -- Tokens taken back; 0 where the charge was given back before the credit.
    refunded_tokens   bigint,
    -- Who made the last move, and why: an operator's name or `carillon`. The history has all of them.
    moved_by          text not null check (btrim(moved_by) <> '' and length(moved_by) <= 60),
    moved_why         text not null check (btrim(moved_why) <> '' and length(moved_why) <= 500),
    constraint top_up_price_adds_up check (blocks = package_blocks * quantity and price_twd = package_price_twd * quantity),
    constraint top_up_paid_is_charged check (num_nulls(gateway, payment_reference, charged_at, credit_at, due_at)
        = case when state in ('charged', 'settled', 'refunded') then 0 else 5 end),
    constraint top_up_credited_after_charge check (credit_at >= charged_at and due_at >= credit_at),
    constraint top_up_settled_has_time check (case state when 'settled' then settled_at is not null
        when 'refunded' then true else settled_at is null end),
    constraint top_up_refund_within_credit check (case when state <> 'refunded' then refunded_tokens is null
        when settled_at is null then refunded_tokens = 0 else refunded_tokens between 1 and tokens end and
        (state = 'refunded') = (refunded_tokens is not null))
) with (fillfactor = 80);
-- One payment pays one order: the second order it is reported for is refused.
create unique index top_up_order_payment on top_up_order (payment_reference);
create index top_up_order_of_shop on top_up_order (shop_id, requested_at desc, id desc);
-- What reconcile looks at every few seconds; it holds only what waits.
create index top_up_order_due on top_up_order (due_at) where state = 'charged';

-- Every move of every order, appended by a trigger so that none is missing, whoever moved it.
create table top_up_history (
    order_id uuid not null references top_up_order,
    id       bigint generated always as identity,
    at       timestamptz not null default now(),
    state    text not null,
    by       text not null,
    why      text not null,
    primary key (order_id, id)
);

-- What may follow what. A charge may come after a failure: the card that was declined first paid at the second try, and
-- whatever order the two were reported in, who has paid gets the tokens.
create function top_up_may_move(p_from text, p_to text) returns boolean language sql immutable as $$
    select case p_from
        when 'requested' then p_to in ('charged', 'failed')
        when 'failed'    then p_to = 'charged'
        when 'charged'   then p_to in ('settled', 'refunded')
        when 'settled'   then p_to = 'refunded'
        else false end
$$;

create function top_up_refuse(p_constraint text, p_why text) returns void language plpgsql as $$
begin
    raise exception '%', p_why using errcode = 'check_violation', constraint = p_constraint, table = 'top_up_order';
end $$;

-- An order changes by a move and in no other way, and a move about tokens needs the ledger entry it tells of.
create function top_up_order_guard() returns trigger language plpgsql as $$
declare v_credit bigint; v_told boolean;
begin
    if tg_op = 'INSERT' then
        if new.state <> 'requested' then
            perform top_up_refuse('top_up_state_moves', 'a top-up order begins as requested, not as ' || new.state);
        end if;
        return new;
    elsif tg_op = 'DELETE' then
        perform top_up_refuse('top_up_order_stays', 'a top-up order is never deleted; fail or refund it');
    end if;
    if (new.id, new.shop_id, new.package_blocks, new.quantity, new.blocks, new.tokens, new.package_price_twd, new.price_twd,
        new.price_version, new.requested_at) is distinct from
       (old.id, old.shop_id, old.package_blocks, old.quantity, old.blocks, old.tokens, old.package_price_twd, old.price_twd,
        old.price_version, old.requested_at) then
        perform top_up_refuse('top_up_order_stays', 'what was ordered, and its price, never change');
    end if;
    if old.state in ('charged', 'settled', 'refunded')
       and ((new.gateway, new.payment_reference, new.charged_at, new.credit_at)
                is distinct from (old.gateway, old.payment_reference, old.charged_at, old.credit_at)
            or (new.settled_at is distinct from old.settled_at and (old.state, new.state) <> ('charged', 'settled'))) then
        perform top_up_refuse('top_up_order_stays', 'when and how an order was charged and settled never changes');
    end if;
    if new.state = old.state then
        -- Only the time of the next try may change without a move.
        if new.state <> 'charged' or (new.moved_by, new.moved_why) is distinct from (old.moved_by, old.moved_why) then
            perform top_up_refuse('top_up_order_stays', 'a top-up order changes only by a move from state to state');
        end if;
        return new;
    end if;
    if not top_up_may_move(old.state, new.state) then
        perform top_up_refuse('top_up_state_moves', format('a top-up order cannot go from %s to %s', old.state, new.state));
    end if;
    if new.state in ('settled', 'refunded') then
        select extra into v_credit from ledger_entry where shop_id = new.shop_id and operation = 'top_up:' || new.id;
        v_told := case when new.state = 'settled' then new.credit_at <= now() and coalesce(v_credit = new.tokens, false)
                       when old.state = 'charged' then v_credit is null
                       else exists (select from ledger_entry where shop_id = new.shop_id
                               and operation = 'top_up_refund:' || new.id and extra = -new.refunded_tokens) end;
        if not v_told then
            perform top_up_refuse('top_up_has_its_entry', format('a top-up order is %s only with the ledger entries that say so, '
                'and never before its time', new.state));
        end if;
    end if;
    return new;
end $$;
create trigger top_up_order_guard before insert or update or delete on top_up_order
    for each row execute function top_up_order_guard();

create function top_up_order_recorded() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' or new.state <> old.state then
        insert into top_up_history (order_id, state, by, why) values (new.id, new.state, new.moved_by, new.moved_why);
    end if;
    return null;
end $$;
create trigger top_up_order_recorded after insert or update of state on top_up_order
    for each row execute function top_up_order_recorded();

create function top_up_is_append_only() returns trigger language plpgsql as $$
begin
    perform top_up_refuse('top_up_order_stays', 'top-up orders and their history are never deleted, nor is the history changed');
    return null;
end $$;
create trigger top_up_history_append_only before update or delete on top_up_history
    for each row execute function top_up_is_append_only();
create trigger top_up_history_no_truncate before truncate on top_up_history
    for each statement execute function top_up_is_append_only();
create trigger top_up_order_no_truncate before truncate on top_up_order
    for each statement execute function top_up_is_append_only();

-- Tokens taken back from an order are no adjustment: a kind of their own keeps them apart in every listing. Not validated: every
-- row that is there passed the stricter check before, and reading them all would hold up every settle meanwhile.
alter table ledger_entry
    drop constraint ledger_entry_kind_check,
    add constraint ledger_entry_kind_check check (kind in
        ('grant', 'expire', 'hold', 'capture', 'release', 'refund', 'top_up', 'top_up_refund', 'adjust')) not valid,
    drop constraint kind_moves_its_own_way,
    add constraint kind_moves_its_own_way check (case kind
        when 'grant'   then allowance >= 0 and extra = 0 and held_allowance = 0 and held_extra = 0
        when 'expire'  then allowance <= 0 and extra = 0 and held_allowance = 0 and held_extra = 0
        when 'hold'    then allowance = 0 and extra = 0 and held_allowance >= 0 and held_extra >= 0
        when 'capture' then allowance <= 0 and extra <= 0 and held_allowance = allowance and held_extra = extra
        when 'release' then allowance = 0 and extra = 0 and held_allowance <= 0 and held_extra <= 0
        when 'refund'  then allowance >= 0 and extra >= 0 and held_allowance = 0 and held_extra = 0
        when 'top_up'  then allowance = 0 and extra >= 0 and held_allowance = 0 and held_extra = 0
        when 'top_up_refund' then allowance = 0 and extra < 0 and held_allowance = 0 and held_extra = 0
        else held_allowance = 0 and held_extra = 0 end) not valid;

-- Places an order for a quantity of one listed package, at the price of today, and returns its id. Nothing is charged or credited
-- by it. For a frontend: p_by is who asked, `shop` if nobody is named.
create function request_top_up(p_shop uuid, p_blocks int, p_quantity int default 1, p_by text default 'shop')
returns uuid language plpgsql as $$
declare v_price record; v_id uuid;
begin
    if p_quantity not between 1 and 1000 then
        perform top_up_refuse('top_up_quantity_in_range', format('a quantity is 1 to 1000 packages, not %s', p_quantity));
    end if;
    select * into v_price from block_price_at(price_day(), p_blocks);
    if not found then
        perform top_up_refuse('top_up_package_is_listed', format('a package of %s blocks is not sold on %s; there are: %s', p_blocks,
            price_day(), coalesce((select string_agg(blocks::text, ', ' order by blocks) from block_price
                where effective_from <= price_day() and (effective_until is null or effective_until > price_day())), 'none')));
    end if;
    insert into top_up_order (shop_id, package_blocks, quantity, blocks, tokens, package_price_twd, price_twd, price_version,
                              moved_by, moved_why)
    values (p_shop, p_blocks, p_quantity, p_blocks * p_quantity, v_price.tokens * p_quantity, v_price.price_twd,
            v_price.price_twd * p_quantity, v_price.version, p_by, 'requested')
    returning id into v_id;
    return v_id;
end $$;

-- Notes that an order was paid, and when its tokens are due. Returns `charged`; `repeated` where this payment was noted
-- before, whatever became of the order since; or, with nothing written, why not: `missing`, `other_payment` (the order was paid
-- with another one), `reference_used` (the payment paid for another order), `ahead` (later than now), `too_early` (before the order).
create function charge_top_up(p_order uuid, p_gateway text, p_reference text, p_charged_at timestamptz, p_credit_at timestamptz,
        p_by text)
returns text language plpgsql as $$
declare o top_up_order;
begin
    select * into o from top_up_order where id = p_order for update;
    if not found then
        return 'missing';
    elsif o.payment_reference is not null then
        return case when o.payment_reference = p_reference then 'repeated' else 'other_payment' end;
    elsif exists (select from top_up_order where payment_reference = p_reference) then
        return 'reference_used';
    elsif p_charged_at > now() then
        return 'ahead';
    elsif p_charged_at < o.requested_at then
        return 'too_early';
    end if;
    update top_up_order
       set state = 'charged', gateway = p_gateway, payment_reference = p_reference, charged_at = p_charged_at,
           credit_at = p_credit_at, due_at = p_credit_at, moved_by = p_by, moved_why = 'paid: ' || p_reference
     where id = p_order;
    return 'charged';
end $$;

-- Ends an order that was not paid. Returns `failed`, `repeated`, `missing`, or the state it is in and stays in.
create function fail_top_up(p_order uuid, p_why text, p_by text) returns text language plpgsql as $$
declare v_state text;
begin
    select state into v_state from top_up_order where id = p_order for update;
    if not found then
        return 'missing';
    elsif v_state <> 'requested' then
        return case v_state when 'failed' then 'repeated' else v_state end;
    end if;
    update top_up_order set state = 'failed', moved_by = p_by, moved_why = p_why where id = p_order;
    return 'failed';
end $$;

-- Credits one order whose time has come: tokens and state in one transaction, once. Returns `settled`; `repeated`; or, with
-- nothing written, `missing`, `early`, or the state it is in: an unpaid order is not credited.
create function settle_top_up(p_order uuid) returns text language plpgsql as $$
declare o top_up_order;
begin
    -- The order before the account, everywhere.
    select * into o from top_up_order where id = p_order for update;
    if not found then
        return 'missing';
    elsif o.state <> 'charged' then
        return case o.state when 'settled' then 'repeated' else o.state end;
    elsif o.credit_at > now() then
        return 'early';
    end if;
    perform ledger_top_up(o.shop_id, o.tokens, o.id::text);
    update top_up_order set state = 'settled', settled_at = now(), moved_by = 'carillon', moved_why = 'credited' where id = p_order;
    return 'settled';
end $$;

-- The orders a worker should look at now, the oldest first.
create function due_top_ups(p_limit int) returns table (order_id uuid) language sql stable as $$
    select id from top_up_order where state = 'charged' and due_at <= now() order by due_at, id limit p_limit
$$;

-- Puts off an order whose credit was refused, so that it keeps neither the others nor the scheduler busy. A person is told
-- by the caller.
create function put_off_top_up(p_order uuid, p_secs double precision) returns void language sql as $$
    update top_up_order set due_at = now() + p_secs * interval '1 second' where id = p_order and state = 'charged' and due_at <= now()
$$;

-- Gives an order back: one that was not credited yet as a whole, of one that was p_tokens (null: all it brought), which may not
-- be more than the shop has left of its extra tokens and has not held. Once for an order. Returns `refunded`, `repeated` or, with
-- nothing written, `missing`, `unpaid`, `not_credited` (tokens asked back of an order that brought none), `out_of_range`,
-- `too_much`; and the tokens taken back and those left to take.
create function refund_top_up(p_order uuid, p_tokens bigint, p_why text, p_by text, out outcome text, out taken bigint, out available bigint)
language plpgsql as $$
declare o top_up_order;
begin
    taken := 0;
    select * into o from top_up_order where id = p_order for update;
    outcome := case when not found then 'missing' when o.state in ('requested', 'failed') then 'unpaid'
                    when o.state = 'refunded' then 'repeated'
                    when o.state = 'charged' and p_tokens is not null then 'not_credited'
                    when p_tokens not between 1 and o.tokens then 'out_of_range' end;
    if outcome is not null then
        return;
    end if;
    if o.state = 'settled' then
        select a.extra - a.held_extra into available from token_account a where a.shop_id = o.shop_id for update;
        if coalesce(p_tokens, o.tokens) > available then
            outcome := 'too_much';
            return;
        end if;
        taken := coalesce(p_tokens, o.tokens);
        available := available - taken;
        perform ledger_post(o.shop_id, 'top_up_refund', 'top_up_refund:' || o.id, null, null, 0, -taken, 0, 0);
    end if;
    update top_up_order set state = 'refunded', refunded_tokens = taken, moved_by = p_by, moved_why = p_why where id = p_order;
    outcome := 'refunded';
end $$;

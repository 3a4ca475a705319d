-- why: tokens. One account of two buckets a shop, an append-only ledger, and one hold a broadcast.
-- Every change of a balance goes through ledger_post, which is the only writer of token_account and ledger_entry.

create table token_account (
    shop_id          uuid primary key references shop,
    -- Balances include what is held; available = balance - held.
    allowance        bigint not null default 0,
    extra            bigint not null default 0,
    held_allowance   bigint not null default 0,
    held_extra       bigint not null default 0,
    -- The name of the period the allowance belongs to, such as 2026-11.
    allowance_period text not null default '',
    constraint allowance_not_overdrawn check (held_allowance >= 0 and allowance >= held_allowance),
    constraint extra_not_overdrawn check (held_extra >= 0 and extra >= held_extra)
) with (fillfactor = 50);

create table ledger_entry (
    id                   bigint generated always as identity,
    shop_id              uuid not null references token_account,
    at                   timestamptz not null default now(),
    kind                 text not null check (kind in
                             ('grant', 'expire', 'hold', 'capture', 'release', 'refund', 'top_up', 'adjust')),
    -- Says what caused the entry, once: a second entry for the same cause is impossible.
    operation            text not null,
    broadcast_id         uuid,
    channel              channel,
    allowance            bigint not null,
    extra                bigint not null,
    held_allowance       bigint not null,
    held_extra           bigint not null,
    allowance_after      bigint not null,
    extra_after          bigint not null,
    held_allowance_after bigint not null,
    held_extra_after     bigint not null,
    -- In this order for pages of a shop's entries and for audit, which reads each shop's chain.
    primary key (shop_id, id),
    unique (shop_id, operation),
    constraint kind_moves_its_own_way check (case kind
        when 'grant'   then allowance >= 0 and extra = 0 and held_allowance = 0 and held_extra = 0
        when 'expire'  then allowance <= 0 and extra = 0 and held_allowance = 0 and held_extra = 0
        when 'hold'    then allowance = 0 and extra = 0 and held_allowance >= 0 and held_extra >= 0
        when 'capture' then allowance <= 0 and extra <= 0 and held_allowance = allowance and held_extra = extra
        when 'release' then allowance = 0 and extra = 0 and held_allowance <= 0 and held_extra <= 0
        when 'refund'  then allowance >= 0 and extra >= 0 and held_allowance = 0 and held_extra = 0
        when 'top_up'  then allowance = 0 and extra >= 0 and held_allowance = 0 and held_extra = 0
        else held_allowance = 0 and held_extra = 0 end)
);
create index ledger_entry_of_broadcast on ledger_entry (broadcast_id) where broadcast_id is not null;

create function ledger_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'ledger entries are never changed or deleted; post a refund or an adjustment instead';
end $$;
create trigger ledger_append_only before update or delete on ledger_entry
    for each row execute function ledger_is_append_only();
create trigger ledger_no_truncate before truncate on ledger_entry
    for each statement execute function ledger_is_append_only();

create table token_hold (
    broadcast_id       uuid primary key,
    shop_id            uuid not null references token_account,
    -- The period whose allowance was held: what comes back after the next refill expires.
    period             text not null,
    allowance          bigint not null check (allowance >= 0),
    extra              bigint not null check (extra >= 0),
    open_allowance     bigint not null check (open_allowance >= 0),
    open_extra         bigint not null check (open_extra >= 0),
    captured_allowance bigint not null default 0,
    captured_extra     bigint not null default 0,
    released           bigint not null default 0 check (released >= 0),
    refunded_allowance bigint not null default 0,
    refunded_extra     bigint not null default 0,
    state              text not null default 'open' check (state in ('open', 'closed')),
    opened_at          timestamptz not null default now(),
    closed_at          timestamptz,
    constraint hold_adds_up check
        (allowance + extra = open_allowance + open_extra + captured_allowance + captured_extra + released),
    constraint refund_within_capture check
        (refunded_allowance between 0 and captured_allowance and refunded_extra between 0 and captured_extra),
    constraint closed_hold_is_empty check (state = 'open' or open_allowance + open_extra = 0)
) with (fillfactor = 50);

create function ledger_post(p_shop uuid, p_kind text, p_operation text, p_broadcast uuid, p_channel channel,
        p_allowance bigint, p_extra bigint, p_held_allowance bigint, p_held_extra bigint)
returns void language plpgsql as $$
declare v token_account;
begin
    update token_account
       set allowance = allowance + p_allowance, extra = extra + p_extra,
           held_allowance = held_allowance + p_held_allowance, held_extra = held_extra + p_held_extra
     where shop_id = p_shop returning * into v;
    if not found then
        raise exception 'shop % has no token account', p_shop using errcode = 'no_data_found';
    end if;
    insert into ledger_entry (shop_id, kind, operation, broadcast_id, channel, allowance, extra, held_allowance,
        held_extra, allowance_after, extra_after, held_allowance_after, held_extra_after)
    values (p_shop, p_kind, p_operation, p_broadcast, p_channel, p_allowance, p_extra, p_held_allowance,
        p_held_extra, v.allowance, v.extra, v.held_allowance, v.held_extra);
end $$;

-- Sets aside p_cost tokens for a broadcast, allowance first. Returns the number of tokens missing: 0 means held,
-- anything else means nothing was written.
create function ledger_hold(p_broadcast uuid, p_shop uuid, p_cost bigint) returns bigint language plpgsql as $$
declare v token_account; v_allowance bigint; v_missing bigint;
begin
    select * into v from token_account where shop_id = p_shop for update;
    if not found then
        return p_cost;
    end if;
    v_missing := p_cost - (v.allowance - v.held_allowance) - (v.extra - v.held_extra);
    if v_missing > 0 then
        return v_missing;
    end if;
    v_allowance := least(p_cost, v.allowance - v.held_allowance);
    insert into token_hold (broadcast_id, shop_id, period, allowance, extra, open_allowance, open_extra)
    values (p_broadcast, p_shop, v.allowance_period, v_allowance, p_cost - v_allowance, v_allowance, p_cost - v_allowance);
    if p_cost > 0 then
        perform ledger_post(p_shop, 'hold', 'hold:' || p_broadcast, p_broadcast, null, 0, 0, v_allowance, p_cost - v_allowance);
    end if;
    return 0;
end $$;

-- Spends p_captured and gives back p_released tokens of a broadcast's hold. Captures spend the allowance first and
-- releases give back the extra first, so that the order of settles never changes who paid. Allowance of a period that
-- has ended expires instead of returning.
create function ledger_settle(p_broadcast uuid, p_channel channel, p_captured bigint, p_released bigint, p_operation text)
returns void language plpgsql as $$
declare h token_hold; v_period text; v_ca bigint; v_ce bigint; v_ra bigint; v_re bigint;
begin
    -- A negative number would move the hold and post nothing.
    if p_captured < 0 or p_released < 0 then
        raise exception 'captured and released are numbers of tokens, not % and %', p_captured, p_released
            using errcode = 'invalid_parameter_value';
    end if;
    if p_captured + p_released = 0 then
        return;
    end if;
    select * into strict h from token_hold where broadcast_id = p_broadcast for update;
    v_ca := least(p_captured, h.open_allowance);
    v_ce := p_captured - v_ca;
    v_re := least(p_released, h.open_extra - v_ce);
    v_ra := p_released - v_re;
    update token_hold
       set open_allowance = open_allowance - v_ca - v_ra, open_extra = open_extra - v_ce - v_re,
           captured_allowance = captured_allowance + v_ca, captured_extra = captured_extra + v_ce,
           released = released + p_released
     where broadcast_id = p_broadcast;
    if p_captured > 0 then
        perform ledger_post(h.shop_id, 'capture', 'capture:' || p_operation, p_broadcast, p_channel, -v_ca, -v_ce, -v_ca, -v_ce);
    end if;
    if p_released > 0 then
        perform ledger_post(h.shop_id, 'release', 'release:' || p_operation, p_broadcast, p_channel, 0, 0, -v_ra, -v_re);
        -- The row is ours since the post above, so the period read here cannot change under us.
        select allowance_period into v_period from token_account where shop_id = h.shop_id;
        if v_ra > 0 and v_period <> h.period then
            perform ledger_post(h.shop_id, 'expire', 'expire:' || p_operation, p_broadcast, p_channel, -v_ra, 0, 0, 0);
        end if;
    end if;
end $$;

-- Gives back p_tokens that were captured for a delivery which failed for good afterwards: last spent, first returned.
create function ledger_refund(p_broadcast uuid, p_channel channel, p_tokens bigint, p_operation text)
returns void language plpgsql as $$
declare h token_hold; v_period text; v_extra bigint; v_allowance bigint;
begin
    if p_tokens <= 0 then
        raise exception 'a refund is a positive number of tokens, not %', p_tokens
            using errcode = 'invalid_parameter_value';
    end if;
    select * into strict h from token_hold where broadcast_id = p_broadcast for update;
    v_extra := least(p_tokens, h.captured_extra - h.refunded_extra);
    v_allowance := p_tokens - v_extra;
    update token_hold set refunded_extra = refunded_extra + v_extra, refunded_allowance = refunded_allowance + v_allowance
     where broadcast_id = p_broadcast;
    perform ledger_post(h.shop_id, 'refund', 'refund:' || p_operation, p_broadcast, p_channel, v_allowance, v_extra, 0, 0);
    select allowance_period into v_period from token_account where shop_id = h.shop_id;
    if v_allowance > 0 and v_period <> h.period then
        perform ledger_post(h.shop_id, 'expire', 'expire:refund:' || p_operation, p_broadcast, p_channel, -v_allowance, 0, 0, 0);
    end if;
end $$;

-- Sets a shop's allowance to what its plan grants for a period: what is neither spent nor held of the old one expires.
-- Once per shop and period, and never for a period before the current one; returns whether it did anything.
create function ledger_refill(p_shop uuid, p_period text, p_allowance bigint) returns boolean language plpgsql as $$
declare v token_account; v_left bigint;
begin
    insert into token_account (shop_id) values (p_shop) on conflict do nothing;
    select * into v from token_account where shop_id = p_shop for update;
    if v.allowance_period >= p_period then
        return false;
    end if;
    v_left := v.allowance - v.held_allowance;
    if v_left > 0 then
        perform ledger_post(p_shop, 'expire', 'expire:period:' || p_period, null, null, -v_left, 0, 0, 0);
    end if;
    perform ledger_post(p_shop, 'grant', 'grant:' || p_period, null, null, p_allowance, 0, 0, 0);
    update token_account set allowance_period = p_period where shop_id = p_shop;
    return true;
end $$;

-- Adds bought tokens. The same operation twice adds them once; returns whether it did anything.
create function ledger_top_up(p_shop uuid, p_tokens bigint, p_operation text) returns boolean language plpgsql as $$
begin
    insert into token_account (shop_id) values (p_shop) on conflict do nothing;
    perform from token_account where shop_id = p_shop for update;
    if exists (select from ledger_entry where shop_id = p_shop and operation = 'top_up:' || p_operation) then
        return false;
    end if;
    perform ledger_post(p_shop, 'top_up', 'top_up:' || p_operation, null, null, 0, p_tokens, 0, 0);
    return true;
end $$;

-- why: every shop's monthly tokens. A period is a name, so that a refill run twice, late, or from anywhere is still the same one;
-- when the next one falls due stands in the account, so that whoever looks (the job, reconcile, a hold) finds it.

-- All locks at once, in the order in which planning takes them, which has a broadcast and its shop before it asks for the account.
lock table broadcast in exclusive mode;
lock table shop in share row exclusive mode;
lock table token_account, ledger_entry in access exclusive mode;

-- The calendar, the same as src/ledger/period.rs; a test holds one against the other. A period is named by the month in which it
-- begins: at midnight of the anchor day in the shop's time zone, of the month's last day where the month is shorter.
create function period_starts_at(p_period text, p_zone text, p_anchor int) returns timestamptz
language plpgsql stable strict as $$
declare v_month date := (p_period || '-01')::date;
        v_midnight timestamp := v_month + least(p_anchor, extract(day from v_month + interval '1 month' - interval '1 day')::int) - 1;
        -- Of a midnight that is skipped this is the one by the clock before, of one that comes twice the second.
        v_at timestamptz := v_midnight at time zone p_zone;
        v_first timestamptz := (v_midnight - ((v_at - interval '3 hours') at time zone p_zone
                                              - (v_at - interval '3 hours') at time zone 'UTC')) at time zone 'UTC';
begin
    return case when v_first < v_at and v_first at time zone p_zone = v_midnight then v_first else v_at end;
end $$;
create function period_after(p_period text) returns text language sql immutable strict as $$
    select to_char((p_period || '-01')::date + interval '1 month', 'YYYY-MM')
$$;
create function period_at(p_at timestamptz, p_zone text, p_anchor int) returns text language plpgsql stable strict as $$
declare v_period text := to_char(p_at at time zone p_zone, 'YYYY-MM');
begin
    -- Where the clock is put back over midnight of the first day, the month before is on the clock once more.
    if period_starts_at(period_after(v_period), p_zone, p_anchor) <= p_at then
        return period_after(v_period);
    elsif period_starts_at(v_period, p_zone, p_anchor) <= p_at then
        return v_period;
    end if;
    return to_char((v_period || '-01')::date - interval '1 month', 'YYYY-MM');
end $$;

-- A zone nobody knows would stop the refills of everybody. Postgres takes more than names: `UTC+8`, which is eight hours west,
-- whatever stands before a number, and abbreviations, such as CET, which are a fixed offset here and a zone with summer time
-- elsewhere. Of names only those of fixed offsets hold a digit, and those count westwards too, as their own standard says.
create function time_zone_must_be_known(p_zone text) returns void language plpgsql as $$
begin
    if p_zone !~ '^([A-Z][A-Za-z_-]*(/[A-Z][A-Za-z_-]*)*|Etc/GMT[+-][0-9]{1,2})$' or p_zone = 'Factory'
       or (p_zone not in ('UTC', 'GMT') and exists (select from pg_timezone_abbrevs where abbrev = upper(p_zone))) then
        raise invalid_parameter_value;
    end if;
    perform now() at time zone p_zone;
exception when invalid_parameter_value then
    raise exception '% is not the name of a time zone; use one such as Asia/Taipei', p_zone
        using errcode = 'check_violation', constraint = 'time_zone_is_known';
end $$;
do $$ begin perform time_zone_must_be_known(time_zone) from (select distinct time_zone from shop) s; end $$;

alter table token_account
    -- When the next period begins, by the shop's calendar; null: nothing falls due (the shop is suspended, or its plan gives
    -- nothing known). Accounts from before are due to be looked at, which is done in steps and not here.
    add column refill_due_at timestamptz default '-infinity',
    -- The highest allowance granted for `allowance_period`; null: what its one grant says.
    add column granted bigint;
create index if not exists token_account_refill_due on token_account (refill_due_at, shop_id) where refill_due_at is not null;
-- Which calendars there are is looked up at every step of a refill.
create index if not exists shop_calendar on shop (time_zone, anchor_day);

-- A refill posted after the day on which it fell due.
alter table ledger_entry add column late boolean not null default false;

-- What was done for a period, and when a bell for it was last rung or answered.
create table refill_run (
    period   text primary key check (period ~ '^[0-9]{4}-[0-9]{2}$'),
    rung_at  timestamptz,
    began_at timestamptz not null default now(),
    ended_at timestamptz,
    shops    bigint not null default 0,
    late     bigint not null default 0
);

-- Brings accounts up to the current period of their shops: what is neither spent nor held of an older one expires, what the plan
-- gives is granted; and says when the next falls due. The caller has locked the accounts. It writes entries beside `ledger_post`
-- because a million of them are posted at once, two a shop, in two statements.
create function refill_locked(p_shops uuid[])
returns table (shop_id uuid, period text, outcome text, late boolean) language plpgsql set enable_seqscan = off set jit = off as $$
begin
    return query
    with due as materialized (
        select a.shop_id, a.allowance, a.extra, a.held_allowance, a.held_extra, a.allowance_period, a.refill_due_at,
               s.plan, s.state, s.time_zone, s.anchor_day
          from unnest(p_shops) as u (id) join token_account a on a.shop_id = u.id join shop s on s.id = u.id),
    current as materialized (
        select c.time_zone, c.anchor_day, period_at(now(), c.time_zone, c.anchor_day) as period
          from (select distinct d.time_zone, d.anchor_day from due d) c),
    calendar as materialized (
        select c.*, period_starts_at(c.period, c.time_zone, c.anchor_day) as starts_at,
               period_starts_at(period_after(c.period), c.time_zone, c.anchor_day) as ends_at,
               (now() at time zone c.time_zone)::date as today
          from current c),
    plans as materialized (select * from plan_allowance),
    look as materialized (
        select d.*, c.period, c.ends_at, coalesce(p.tokens, t.tokens) as tokens,
               case when d.state <> 'active' then 'suspended' when coalesce(p.tokens, t.tokens) is null then 'no_plan'
                    when d.allowance_period >= c.period then 'current' else 'refilled' end as outcome,
               -- A shop that is new or returns is not late; who missed a period long over is not either.
               c.today > (greatest(d.refill_due_at, c.starts_at) at time zone d.time_zone)::date as late
          from due d
          join calendar c on c.time_zone = d.time_zone and c.anchor_day = d.anchor_day
          -- Whoever comes when, it is what the plan gave on the period's first day, as for an upgrade; a plan younger than that
          -- gives what it gives now.
          left join plans p on p.plan = d.plan
               and p.effective_from <= (c.starts_at at time zone 'Asia/Taipei')::date
               and (p.effective_until is null or p.effective_until > (c.starts_at at time zone 'Asia/Taipei')::date)
          left join plans t on t.plan = d.plan and t.effective_from <= price_day()
               and (t.effective_until is null or t.effective_until > price_day())),
    moved as (
        update token_account a
           set allowance = case l.outcome when 'refilled' then l.held_allowance + l.tokens else a.allowance end,
               allowance_period = case l.outcome when 'refilled' then l.period else a.allowance_period end,
               granted = case l.outcome when 'refilled' then l.tokens else a.granted end,
               refill_due_at = case l.outcome when 'refilled' then l.ends_at
                   when 'current' then period_starts_at(period_after(l.allowance_period), l.time_zone, l.anchor_day) end
          from look l where a.shop_id = l.shop_id),
    posted as (
        insert into ledger_entry (shop_id, kind, operation, allowance, extra, held_allowance, held_extra,
            allowance_after, extra_after, held_allowance_after, held_extra_after, late)
        select l.shop_id, e.kind, e.operation, e.change, 0, 0, 0, e.allowance_after, l.extra, l.held_allowance, l.held_extra, l.late
          from look l
         cross join lateral (values
            (1, 'expire', 'expire:period:' || l.period, l.held_allowance - l.allowance, l.held_allowance),
            (2, 'grant', 'grant:' || l.period, l.tokens, l.held_allowance + l.tokens))
               as e (place, kind, operation, change, allowance_after)
         where l.outcome = 'refilled' and (e.kind = 'grant' or e.change < 0)
         order by l.shop_id, e.place)
    select l.shop_id, l.period, l.outcome, l.late and l.outcome = 'refilled' from look l;
end $$;

-- Refills up to p_limit shops whose current period is p_period and who are due: a step of the job, a transaction of its own.
-- Returns how many it looked at (0: none is left that nobody else has in hand), refilled, and how many of those were late.
create function refill_due_shops(p_period text, p_limit int)
returns table (looked int, refilled int, late int) language plpgsql set enable_seqscan = off set enable_sort = off set jit = off as $$
declare v_calendars text[]; v_shops uuid[];
begin
    v_calendars := array(
        with recursive calendar as (
            (select s.time_zone, s.anchor_day from shop s order by 1, 2 limit 1)
            union all
            select n.* from calendar c cross join lateral (select s.time_zone, s.anchor_day from shop s
                where (s.time_zone, s.anchor_day) > (c.time_zone, c.anchor_day) order by 1, 2 limit 1) n)
        select c.time_zone || ' ' || c.anchor_day from calendar c where period_at(now(), c.time_zone, c.anchor_day) = p_period);
    -- In the order of the index, so that neighbours in the ledger's keys are written together. Who is locked is being sent to or
    -- refilled by somebody else: waiting for one would keep the locks of all.
    v_shops := array(
        select a.shop_id from token_account a join shop s on s.id = a.shop_id
         where a.refill_due_at <= now() and s.time_zone || ' ' || s.anchor_day = any (v_calendars)
         order by a.refill_due_at, a.shop_id limit p_limit for update of a skip locked);
    select count(*), count(*) filter (where r.outcome = 'refilled'), count(*) filter (where r.late)
      into looked, refilled, late from refill_locked(v_shops) r;
    if looked > 0 then
        insert into refill_run as r (period, rung_at, ended_at, shops, late) values (p_period, now(), now(), refilled, refill_due_shops.late)
        on conflict (period) do update set rung_at = now(), ended_at = now(), shops = r.shops + excluded.shops,
            late = r.late + excluded.late;
    end if;
    return next;
end $$;

-- Refills one shop for p_period, or for its current period when that is null. Returns `refilled`; why not: `current` (it was
-- already), `suspended`, `no_plan`, `over` or `not_yet` (another period is the current one); or null: there is no such shop.
create function refill_shop(p_shop uuid, p_period text default null) returns text language plpgsql as $$
declare v_period text; v_outcome text;
begin
    select period_at(now(), time_zone, anchor_day) into v_period from shop where id = p_shop;
    if not found then
        return null;
    elsif p_period <> v_period then
        return case when p_period < v_period then 'over' else 'not_yet' end;
    end if;
    insert into token_account (shop_id) values (p_shop) on conflict do nothing;
    perform from token_account where shop_id = p_shop for update;
    select r.outcome into v_outcome from refill_locked(array[p_shop]) r;
    return v_outcome;
end $$;

-- The periods to ring for: those whose shops are overdue, and which nobody has rung or worked for in p_stale_secs. The longest
-- overdue are looked at; others come up as those are done.
create function refills_to_ring(p_stale_secs double precision) returns setof text language plpgsql set enable_seqscan = off set jit = off as $$
begin
    return query
    with due as (
        select s.time_zone, s.anchor_day
          from (select a.shop_id from token_account a where a.refill_due_at <= now()
                 order by a.refill_due_at, a.shop_id limit 1000) o
          join shop s on s.id = o.shop_id),
    wanted as (
        select distinct period_at(now(), d.time_zone, d.anchor_day) as period
          from (select distinct time_zone, anchor_day from due) d)
    insert into refill_run as r (period, rung_at)
    select w.period, now() from wanted w
     -- A row that is being worked on is never waited for.
     where not exists (select from refill_run o where o.period = w.period
                          -- One rung for later than now was rung by a clock that has been put back since.
                          and o.rung_at > now() - p_stale_secs * interval '1 second' and o.rung_at <= now())
     -- In one order: two schedulers that ring for the same two periods never wait for each other.
     order by w.period
    on conflict on constraint refill_run_pkey do update set rung_at = now()
    returning r.period;
end $$;

-- Grants what the shop's plan gives beyond the highest allowance granted in its current period; returns the tokens.
create function grant_upgrade(p_shop uuid) returns bigint language plpgsql as $$
declare s shop; a token_account; v_tokens bigint; v_granted bigint;
begin
    select * into s from shop where id = p_shop;
    select * into a from token_account where shop_id = p_shop for update;
    -- A shop that has moved its anchor day back may be ahead of its calendar: it is in the period it was granted all the same.
    if s.state <> 'active' or a.allowance_period < period_at(now(), s.time_zone, s.anchor_day) then
        return 0;
    end if;
    -- By the prices of the period's first day, as its refill: what plans give from today on is for the next period.
    v_tokens := coalesce(plan_allowance_at(s.plan, (least(now(),
            period_starts_at(a.allowance_period, s.time_zone, s.anchor_day)) at time zone 'Asia/Taipei')::date),
        plan_allowance_at(s.plan, price_day()));
    v_granted := coalesce(a.granted, (select e.allowance from ledger_entry e
        where e.shop_id = p_shop and e.operation = 'grant:' || a.allowance_period), 0);
    if v_tokens is null or v_tokens <= v_granted then
        return 0;
    end if;
    perform ledger_post(p_shop, 'grant', format('grant:%s:upgrade:%s', a.allowance_period, v_tokens), null, null,
        v_tokens - v_granted, 0, 0, 0);
    update token_account set granted = v_tokens where shop_id = p_shop;
    return v_tokens - v_granted;
end $$;

-- Changes a shop's plan. More tokens come at once: the difference to the highest allowance already granted in this period, once;
-- fewer from the next period on. Returns the tokens granted.
create function change_plan(p_shop uuid, p_plan text) returns bigint language plpgsql as $$
declare v_before bigint; v_after bigint;
begin
    -- Not `for update`: a plan that opens its lanes has the account and names the shop; it would wait here, and this for the account.
    perform from shop where id = p_shop for no key update;
    if not found then
        raise exception 'there is no shop %', p_shop using errcode = 'no_data_found';
    end if;
    perform refill_shop(p_shop);
    select allowance into v_before from token_account where shop_id = p_shop;
    update shop set plan = p_plan where id = p_shop;
    select allowance into v_after from token_account where shop_id = p_shop;
    return v_after - v_before;
end $$;

-- Whoever changes a shop, its account follows. Locks are taken in one order everywhere: shop, then account.
create function shops_have_accounts() returns trigger language plpgsql as $$
begin
    perform time_zone_must_be_known(time_zone) from (select distinct time_zone from added) a;
    -- Due at once: a new shop gets the whole allowance of the period it comes in.
    insert into token_account (shop_id, refill_due_at) select id, case state when 'active' then now() end from added
    on conflict do nothing;
    return null;
end $$;
create trigger shop_has_account after insert on shop
    referencing new table as added for each statement execute function shops_have_accounts();

create function shop_plan_will_change() returns trigger language plpgsql as $$
begin
    -- What fell due under the old plan is what the old plan gives.
    perform refill_shop(old.id);
    return new;
end $$;
create trigger shop_plan_will_change before update of plan on shop
    for each row when (old.plan is distinct from new.plan) execute function shop_plan_will_change();

create function shop_allowance_follows() returns trigger language plpgsql as $$
begin
    perform time_zone_must_be_known(new.time_zone);
    if new.state <> 'active' then
        -- Nothing while suspended.
        update token_account set refill_due_at = null where shop_id = new.id;
    else
        -- Back from a suspension, the current period only, and in time; by a new calendar, when that says.
        update token_account set refill_due_at = now() where shop_id = new.id and refill_due_at is null;
        perform refill_shop(new.id);
        perform grant_upgrade(new.id);
    end if;
    return null;
end $$;
create trigger shop_allowance_follows after update of plan, state, time_zone, anchor_day on shop
    for each row when ((old.plan, old.state, old.time_zone, old.anchor_day)
        is distinct from (new.plan, new.state, new.time_zone, new.anchor_day)) execute function shop_allowance_follows();

-- Shops from before, who never had a token.
insert into token_account (shop_id, refill_due_at) select id, case state when 'active' then now() end from shop
on conflict do nothing;

-- A plan that was not listed may be from now on: who waited for it is looked at again.
create function plans_were_published() returns trigger language plpgsql as $$
begin
    update token_account a set refill_due_at = '-infinity' from shop s
     where a.refill_due_at is null and s.id = a.shop_id and s.state = 'active';
    return null;
end $$;
create trigger plans_published after insert or update on price_table
    for each row when (new.kind = 'plans') execute function plans_were_published();

-- Sets a shop's allowance for a period by hand: what is neither spent nor held of the old one expires. Once per shop and period, and
-- never for a period before the current one; returns whether it did anything. The refills of the calendar are `refill_shop`'s.
create or replace function ledger_refill(p_shop uuid, p_period text, p_allowance bigint) returns boolean language plpgsql as $$
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
    update token_account
       set allowance_period = p_period, granted = p_allowance,
           refill_due_at = (select period_starts_at(period_after(p_period), time_zone, anchor_day) from shop
                             where id = p_shop and state = 'active')
     where shop_id = p_shop;
    return true;
end $$;

-- Sets aside p_cost tokens for a broadcast, allowance first. Returns the number of tokens missing: 0 means held, anything else
-- means that nothing was held. A refill that is due is posted first, so that its lateness never costs bought tokens.
create or replace function ledger_hold(p_broadcast uuid, p_shop uuid, p_cost bigint) returns bigint language plpgsql as $$
declare v token_account; v_allowance bigint; v_missing bigint;
begin
    select * into v from token_account where shop_id = p_shop for update;
    if not found then
        return p_cost;
    end if;
    if v.refill_due_at <= now() then
        perform refill_locked(array[p_shop]);
        select * into v from token_account where shop_id = p_shop;
    end if;
    v_missing := p_cost - (v.allowance - v.held_allowance) - (v.extra - v.held_extra);
    if v_missing > 0 then
        return v_missing;
    end if;
    v_allowance := least(p_cost, v.allowance - v.held_allowance);
    insert into token_hold (broadcast_id, shop_id, period, allowance, extra, open_allowance, open_extra, price_version)
    values (p_broadcast, p_shop, v.allowance_period, v_allowance, p_cost - v_allowance, v_allowance, p_cost - v_allowance,
            (select price_version from broadcast where id = p_broadcast));
    if p_cost > 0 then
        perform ledger_post(p_shop, 'hold', 'hold:' || p_broadcast, p_broadcast, null, 0, 0, v_allowance, p_cost - v_allowance);
    end if;
    return 0;
end $$;

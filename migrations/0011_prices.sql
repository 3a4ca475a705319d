-- why: plans, token costs and block prices as data with dates, in the database too, so that SQL functions and frontends read
-- what the program reads; and with which of them a broadcast was priced. The files in config/prices are the source: the program
-- publishes them (`publish_prices`) when it migrates and when it starts.

-- All locks at once, in the order in which planning and settles take them: a deploy and they never wait for each other.
lock table broadcast in access exclusive mode;
lock table shop in share row exclusive mode;
lock table token_hold in access exclusive mode;

-- One price table: one file, one version. It holds until the next one of its kind begins; days are Asia/Taipei's.
create table price_table (
    version        text primary key check (version <> ''),
    kind           text not null check (kind in ('plans', 'token_costs', 'block_prices')),
    effective_from date not null,
    document       jsonb not null,
    published_at   timestamptz not null default now(),
    constraint one_price_table_of_a_kind_begins_a_day unique (kind, effective_from)
);

-- Today, where prices change at midnight.
create function price_day() returns date language sql stable as $$ select (now() at time zone 'Asia/Taipei')::date $$;

-- What was sold at a price stays sold at it. A table may be corrected until its first day, and none is ever withdrawn: an
-- order or a hold may name it.
create function price_table_guard() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and old.effective_from > price_day() and new.effective_from > price_day()
       and (new.version, new.kind) = (old.version, old.kind) then
        return new;
    end if;
    raise exception 'a price table that has begun never changes, and none is taken away; publish a new one'
        using errcode = 'check_violation', constraint = 'price_table_never_changes';
end $$;
create trigger price_table_never_changes before update or delete on price_table
    for each row execute function price_table_guard();
create trigger price_table_no_truncate before truncate on price_table
    for each statement execute function price_table_guard();

-- For everybody who reads: each figure with its dates. `effective_until` is the first day it does not hold any more.
create view price_in_force as
select version, kind, effective_from,
       lead(effective_from) over (partition by kind order by effective_from) as effective_until, document
  from price_table;
create view plan_allowance as
select p.version, r.key as plan, r.value::bigint as tokens, p.effective_from, p.effective_until
  from price_in_force p cross join lateral jsonb_each_text(p.document) as r where p.kind = 'plans';
create view token_cost as
select p.version, r.key::channel as channel, r.value::int as tokens, p.effective_from, p.effective_until
  from price_in_force p cross join lateral jsonb_each_text(p.document) as r where p.kind = 'token_costs';
create view block_price as
select p.version, r.key::int as blocks, r.key::bigint * (p.document ->> 'tokens_per_block')::bigint as tokens,
       r.value::bigint as price_twd, p.effective_from, p.effective_until
  from price_in_force p cross join lateral jsonb_each_text(p.document -> 'price_twd') as r where p.kind = 'block_prices';

-- Tokens a plan gives for a period that falls due on a day; null for a plan that is not listed then.
create function plan_allowance_at(p_plan text, p_day date) returns bigint language sql stable as $$
    select tokens from plan_allowance
     where plan = p_plan and effective_from <= p_day and (effective_until is null or effective_until > p_day)
$$;
-- A package of bought tokens on a day; no row when no package of this many blocks is listed then.
create function block_price_at(p_day date, p_blocks int)
returns table (version text, blocks int, tokens bigint, price_twd bigint) language sql stable as $$
    select b.version, b.blocks, b.tokens, b.price_twd from block_price b
     where b.blocks = p_blocks and b.effective_from <= p_day and (b.effective_until is null or b.effective_until > p_day)
$$;

-- Publishes tables, `[{"version", "kind", "effective_from", "document"}, …]`: all of them or, with an exception that says what to
-- do, none. Returns the versions that were new or corrected. Tables it does not name stay.
create function publish_prices(p_tables jsonb) returns setof text language plpgsql as $$
declare t record; v price_table; v_kinds text[]; v_problem text; v_plan text; v_shop uuid;
begin
    -- Nothing new, which is nearly always: nobody waits for anybody.
    if not exists (select from jsonb_to_recordset(p_tables) as n (version text, kind text, effective_from date, document jsonb)
                    where not exists (select from price_table o where o.version = n.version and o.kind = n.kind
                                         and o.effective_from = n.effective_from and o.document = n.document)) then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('publish_prices', 0));
    -- The first tables of a kind may say what held long ago; later ones may not change what was.
    v_kinds := array(select distinct kind from price_table);
    for t in select * from jsonb_to_recordset(p_tables) as n (version text, kind text, effective_from date, document jsonb)
              order by n.kind, n.effective_from loop
        select * into v from price_table where version = t.version;
        if found and (v.kind, v.effective_from, v.document) = (t.kind, t.effective_from, t.document) then
            continue;
        end if;
        v_problem := case
            when v.version is not null and v.effective_from <= price_day() then
                format('it has begun on %s and never changes: put the file back as it was, and add a new one', v.effective_from)
            when v.version is not null and v.kind <> t.kind then
                format('it was published as a table of %s: give the file another name', v.kind)
            when t.effective_from <= price_day() and t.kind = any (v_kinds) then
                format('it begins on %s, which would change what was sold already: let it begin after today, %s',
                       t.effective_from, price_day())
            when exists (select from price_table o where o.kind = t.kind and o.effective_from = t.effective_from
                            and o.version <> t.version) then
                format('%s begins on the same day, %s: choose another', (select o.version from price_table o
                        where o.kind = t.kind and o.effective_from = t.effective_from), t.effective_from)
            end;
        if v_problem is not null then
            raise exception 'price table %: %', t.version, v_problem
                using errcode = 'check_violation', constraint = 'prices_may_be_published';
        end if;
        if t.kind = 'plans' then
            select s.plan, s.id into v_plan, v_shop from shop s where not t.document ? s.plan order by s.created_at limit 1;
            -- Tables that are followed by another of these need not list what shops have today.
            if found and not exists (select from jsonb_to_recordset(p_tables) as n (kind text, effective_from date)
                                      where n.kind = 'plans' and n.effective_from > t.effective_from
                                        and n.effective_from <= price_day()) then
                raise exception 'price table %: shop % has the plan %, which it does not list: list it, or change the shop''s plan first',
                    t.version, v_shop, v_plan using errcode = 'check_violation', constraint = 'prices_may_be_published';
            end if;
        end if;
        insert into price_table (version, kind, effective_from, document)
        values (t.version, t.kind, t.effective_from, t.document)
        on conflict (version) do update set effective_from = excluded.effective_from, document = excluded.document,
            published_at = now();
        return next t.version;
    end loop;
end $$;

-- A shop on a plan that gives nothing known would wait for its tokens for ever, now or from the day on which a table that is
-- published already leaves its plan out. Until plans are published anything goes.
create function plan_must_be_known(p_plan text) returns void language plpgsql as $$
declare v_from date;
begin
    select effective_from into v_from from price_in_force
     where kind = 'plans' and (effective_until is null or effective_until > price_day()) and not document ? p_plan
     order by effective_from limit 1;
    if v_from > price_day() then
        raise exception 'the plan % ends on %: no shop begins it any more', p_plan, v_from
            using errcode = 'check_violation', constraint = 'plan_is_known';
    elsif found then
        raise exception 'there is no plan %; there are: %', p_plan,
            (select string_agg(plan, ', ' order by plan) from plan_allowance where effective_from <= price_day()
                and (effective_until is null or effective_until > price_day()))
            using errcode = 'check_violation', constraint = 'plan_is_known';
    end if;
end $$;
create function shops_plans_are_known() returns trigger language plpgsql as $$
begin
    perform plan_must_be_known(plan) from (select distinct plan from added) a;
    return null;
end $$;
create function shops_plan_is_known() returns trigger language plpgsql as $$
begin
    perform plan_must_be_known(new.plan);
    return new;
end $$;
create trigger shop_plan_is_known after insert on shop
    referencing new table as added for each statement execute function shops_plans_are_known();
create trigger shop_plan_stays_known before update of plan on shop
    for each row when (old.plan is distinct from new.plan) execute function shops_plan_is_known();

-- With which token costs a broadcast was priced, from the moment its planning begins; null before then, and for those whose
-- planning began in an older program. A hold keeps what its broadcast was priced with.
alter table broadcast add column price_version text;
alter table token_hold add column price_version text;

-- why: two addresses of one customer that close at the same moment. Each looked for the other to take its place, and the
-- customer was left with a current address that is closed while a third, valid one was never chosen.

-- Stops sending to one address: state is `opted_out` (the person said so) or `suppressed` (the provider said so).
-- Where the customer has another valid one on the same sender, the newest takes its place. Running it twice is harmless.
create or replace function close_address(p_address bigint, p_state text, p_reason text) returns boolean language plpgsql as $$
declare v address;
begin
    -- All that this customer has on the sender, in one order: who comes second sees what the first one chose.
    perform from address a
      join address o on o.customer_id = a.customer_id and o.sender_id = a.sender_id
     where a.id = p_address order by o.id for update of o;
    update address set state = p_state, state_reason = p_reason, state_changed_at = now()
     where id = p_address and state <> p_state and not (state = 'opted_out' and p_state = 'suppressed')
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

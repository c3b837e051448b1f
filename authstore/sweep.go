package authstore

import (
	"context"
	"strings"
	"time"
)

// Message secrets and sender keys are read on demand, so finding old ones is a
// look at the whole table. It happens beside everything else, a twelfth of their
// age after the last one; the account remembers when that was. It counts the
// table too, and an account whose table was never counted is looked at once.

const (
	removeAtOnce = 32        // rows of a table that one commit takes along
	sweepAgain   = time.Hour // after a look that failed
)

// aging is a table that is read on demand and whose rows have an age. If
// tables differ, they differ here.
type aging struct {
	table  tableID
	note   string // a single value: since when each row has a time, and when the table was last looked at
	name   string
	age    func(Retention) time.Duration
	usedAt func(row []byte) (unix int64, ok bool) // false: it was not noted

	// Called with mu held.
	waiting func(*deviceStore) int                     // old rows that a look has found and no commit has removed yet
	begin   func(*deviceStore)                         // a look begins
	end     func(*deviceStore) (remove func(sweptRow)) // a look is over; remove is for the rows that are too old
}

// agings is never written to.
var agings = [...]aging{
	{
		table: tSecret, note: "secret_sweep", name: "message secrets",
		age:     func(r Retention) time.Duration { return r.MessageSecrets },
		usedAt:  secretTime,
		waiting: func(s *deviceStore) int { return s.upkeep.waiting() },
		begin:   func(*deviceStore) {}, // a secret is written once, so none becomes younger meanwhile
		end: func(s *deviceStore) func(sweptRow) {
			return func(r sweptRow) { s.upkeep.remove(r.key) }
		},
	},
	{
		table: tSenderKey, note: "senderkey_sweep", name: "sender keys",
		age:     func(r Retention) time.Duration { return r.SenderKeys },
		usedAt:  senderKeyTime,
		waiting: func(s *deviceStore) int { return len(s.keys.old) },
		begin:   func(s *deviceStore) { s.keys.during = make(map[string]struct{}) },
		end: func(s *deviceStore) func(sweptRow) {
			used := s.keys.during
			s.keys.during = nil
			return func(r sweptRow) {
				if _, ok := used[r.id]; !ok {
					s.keys.toRemove(r.id)
				}
			}
		},
	},
}

func sweepValue(noted, swept time.Time) []byte { return fieldsOf(noted.Unix(), swept.Unix()) }

func parseSweep(v []byte) (noted, swept time.Time) {
	f := fields{b: v}
	return time.Unix(f.varint(), 0), time.Unix(f.varint(), 0)
}

// sweep removes what is too old. It does no I/O by itself.
func (s *deviceStore) sweep() {
	limit := before(s.cfg.retention.PrivacyTokens).Unix()
	_ = s.update(context.Background(), "delete old privacy tokens", lazily, func(func(tableID, string) ([]byte, bool)) (changes []change) {
		s.im.each(tToken, func(id string, v []byte) {
			if t, err := parseToken(v); err == nil && t.at < limit {
				changes = append(changes, del(tToken, id))
			}
		})
		return append(changes, s.surplusLIDsLocked()...)
	})
	for _, a := range agings {
		if s.sweepDue(a) {
			s.inBackground(func() {
				if err := s.sweepTable(a); err != nil && s.gate.check("") == nil {
					s.cfg.log.Warn("old rows were not looked for; the search is tried again in an hour", "rows", a.name, "error", err)
					s.mu.Lock()
					s.upkeep.lookAgain(a.table, time.Now().Add(sweepAgain))
					s.mu.Unlock()
				}
			})
		}
	}
	s.mu.Lock()
	sends := s.gen != "" && s.cfg.retention.Sent != Forever
	s.mu.Unlock()
	if sends {
		_ = s.DeleteOldOutgoingEvents(context.Background()) // it says by itself what failed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, changed := s.sizesLocked(); changed && !s.queue.closed && s.gen != "" {
		s.laterLocked(lazily, c)
	}
}

// sweepDue reports whether a table is to be looked at, and notes that it is
// being done.
func (s *deviceStore) sweepDue(a aging) bool {
	age := a.age(s.cfg.retention)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.queue.closed || s.gen == "" {
		return false
	}
	if _, ok := s.im.get(tMisc, a.note); !ok {
		s.laterLocked(lazily, put(tMisc, a.note, sweepValue(now, now)))
	}
	if a.waiting(s) > 0 || !s.upkeep.due(a.table, now) {
		return false
	}
	v, _ := s.im.get(tMisc, a.note)
	_, swept := parseSweep(v)
	if swept.After(now) { // a clock was ahead: nothing waits for that time to come
		swept = time.Time{}
	}
	if _, known := s.upkeep.size(a.table); known && (age == Forever || now.Before(swept.Add(age/12))) {
		return false
	}
	s.upkeep.lookAgain(a.table, now.Add(age/12))
	a.begin(s)
	return true
}

// sweptRow is a row that a look at a table has found.
type sweptRow struct {
	key Key
	id  string
	at  int64 // Unix seconds of its last use; of one without a time, the first look
}

// sweepTable looks for rows that are too old. It never ends the term.
func (s *deviceStore) sweepTable(a aging) error {
	limit := before(a.age(s.cfg.retention)).Unix()
	s.mu.Lock()
	v, _ := s.im.get(tMisc, a.note)
	s.mu.Unlock()
	noted, _ := parseSweep(v)
	prefix := s.genOf(specOf(a.table)) + "/"
	var answer result[[]sweptRow]
	err := s.gate.look(context.Background(), "delete old "+a.name, func(ctx context.Context) error {
		var rows []sweptRow
		for e, err := range s.gate.kv.Scan(ctx, specOf(a.table).kind, prefix) {
			if err != nil {
				return err
			}
			r := sweptRow{e.Key, "", time.Now().Unix()} // a read of a row that does not open finds out what it is
			rec, err := s.cfg.codec.decode(e.Key, strings.TrimPrefix(e.Key.ID, prefix), e.Value)
			if err == nil && rec.split == nil {
				r.id, r.at = rec.id, noted.Unix()
				if at, ok := a.usedAt(rec.data); ok {
					r.at = at
				}
			}
			rows = append(rows, r)
		}
		return answer.of(rows, nil)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	remove := a.end(s)
	if err != nil || s.queue.closed {
		return err
	}
	rows := answer.get()
	s.upkeep.counted(a.table, len(rows))
	newest := make(map[string]int64, len(rows)) // a row may stand under two names for a moment
	for _, r := range rows {
		newest[r.id] = max(newest[r.id], r.at)
	}
	for _, r := range rows {
		if r.id != "" && newest[r.id] < limit {
			remove(r)
		}
	}
	s.laterLocked(lazily, put(tMisc, a.note, sweepValue(noted, time.Now())))
	return nil
}

// takeRemovalsLocked gives what the next commit takes along, and leaves out what
// it writes itself. mu is held.
func (s *deviceStore) takeRemovalsLocked(rows map[row]struct{}) (keys []Key) {
	if s.upkeep.waiting() == 0 {
		return nil
	}
	busy := make(map[Key]struct{})
	for r := range rows {
		if r.table == tSecret {
			key, _, _ := s.keyOf(r)
			busy[key] = struct{}{}
			if old, ok := s.oldKeyOf(r); ok {
				busy[old] = struct{}{}
			}
		}
	}
	return s.upkeep.takeRemovals(func(k Key) bool {
		_, ok := busy[k]
		return ok || s.damage.at(k)
	})
}

// secretTime is when a stored secret was written, if that was noted.
func secretTime(v []byte) (unix int64, ok bool) {
	f := fields{b: v}
	for range 4 {
		f.bytes()
	}
	if f.err != nil || len(f.b) == 0 {
		return 0, false
	}
	unix = f.varint()
	return unix, f.err == nil
}

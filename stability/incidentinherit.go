package stability

import (
	"strconv"
	"time"

	"github.com/wastability/wastability/guard"
)

// adoptAgain is when the holder looks once more for what is open. Other
// instances write down behind an outage what they could only tell during it, and
// they may be gone before it is resolved.
const adoptAgain = 3 * time.Minute

// catchUp writes down what was told while the store did not answer, so that
// whoever resolves it knows of it.
func (l *incidentLoop) catchUp() {
	l.mu.Lock()
	var open []guard.Incident
	for _, inc := range l.list {
		if t, known := l.told[inc.ID]; known && !t.stored {
			open = append(open, inc)
		}
	}
	l.mu.Unlock()
	for _, inc := range open {
		l.raise(inc)
	}
}

// adoptRetry is how soon the store is asked again for what is open.
const adoptRetry = 2 * time.Second

// adoptPatience is for how long: better told twice than never.
const adoptPatience = 30 * time.Second

func (l *incidentLoop) adopt(epoch int64) bool {
	ctx, cancel := l.callContext()
	defer cancel()
	list, err := l.m.cfg.backend.Incidents.List(ctx)
	if err != nil {
		l.m.cfg.logger.Debug("the incidents were not read", "error", err)
		return false
	}
	if epoch != l.adopted {
		l.again = time.Now().Add(adoptAgain)
	}
	l.adopted, l.trying = epoch, time.Time{}
	l.guard.Adopt(list)
	for _, inc := range l.takeOver(list) {
		l.tell(guard.Notification{Change: guard.ChangeResolved, Incident: inc, At: inc.ResolvedAt})
	}
	return true
}

// takeOver makes list what is known. It returns the incidents that this instance
// has closed without a reply.
func (l *incidentLoop) takeOver(list []guard.Incident) (closed []guard.Incident) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := map[string]time.Time{}
	for _, inc := range l.list {
		before[inc.ID] = inc.LastCheckedAt
	}
	l.list = list
	active := map[string]bool{}
	for _, inc := range list {
		t := l.told[inc.ID]
		if inc.Active {
			active[inc.ID] = true
			if inc.Type == guard.TypeDataDamaged {
				l.m.inheritDamage(inc, l.adopted)
			}
			if inc.DetectedAt.After(t.closes) { // it began anew behind that end
				t.closes = time.Time{}
			}
			l.told[inc.ID] = told{stored: true, own: t.own, closes: t.closes}
			if _, seen := l.moved[inc.ID]; !seen || !inc.LastCheckedAt.Equal(before[inc.ID]) {
				l.moved[inc.ID] = time.Now()
			}
		} else if t.stored && !t.closes.IsZero() && inc.ResolvedAt.Equal(t.closes) {
			closed = append(closed, inc)
		}
	}
	for id, t := range l.told {
		if t.stored && !active[id] {
			delete(l.told, id)
			delete(l.moved, id) // another holder resolved it: the next time is a new one
		}
	}
	return closed
}

// inheritDamage goes on with the damage that an earlier holder has reported: it
// is not cured by a hand-over. In a term of which rows were purged there is none.
func (m *Manager) inheritDamage(inc guard.Incident, epoch int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.damage.at.IsZero() || m.damage.purged == epoch {
		return
	}
	m.damage.at, m.damage.text = inc.DetectedAt, inc.Evidence["detail"]
	if at, err := time.Parse(time.RFC3339, inc.Evidence["found"]); err == nil {
		m.damage.at = at
	}
	m.damage.rows, _ = strconv.Atoi(inc.Evidence["rows"])
}

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// tape is what a Prometheus would have scraped of a virtual life.
type tape struct {
	w       *world
	every   time.Duration
	scrapes int
	series  map[string]map[int]float64
	all     []*process
	used    map[string]bool // the metrics that rules ask for
}

func newTape(w *world, every time.Duration) *tape {
	t := &tape{w: w, every: every, series: map[string]map[int]float64{}, used: map[string]bool{}}
	for _, a := range alerts {
		for _, name := range metricName.FindAllString(a.expr, -1) {
			t.used[name] = true
		}
	}
	return t
}

// start makes an instance, which is scraped from now on.
func (p *tape) start(name string, opts ...stability.Option) *process {
	i := p.w.process(name, opts...)
	p.all = append(p.all, i)
	return i
}

// run lets time pass, and scrapes.
func (p *tape) run(d time.Duration) {
	for ; d > 0; d -= p.every {
		time.Sleep(p.every)
		synctest.Wait()
		for _, i := range p.all {
			if i.finished {
				continue
			}
			for series, v := range i.gathered() {
				name, labels, _ := strings.Cut(series, "{")
				if !p.used[name] {
					continue
				}
				key := fmt.Sprintf(`%s{instance=%q,job="bot",%s`, name, i.name, labels)
				if p.series[key] == nil {
					p.series[key] = map[int]float64{}
				}
				p.series[key][p.scrapes] = v
			}
		}
		p.scrapes++
	}
}

// values is a series in promtool's notation, with runs of one value as one word.
func (p *tape) values(of map[int]float64) string {
	var words []string
	for i := 0; i < p.scrapes; {
		v, is := of[i]
		n := 1
		for ; i+n < p.scrapes; n++ {
			if next, also := of[i+n]; also != is || next != v {
				break
			}
		}
		i += n
		switch number := strconv.FormatFloat(v, 'f', 3, 64); {
		case !is:
			words = append(words, "_x"+strconv.Itoa(n))
		default:
			words = append(words, number+"+0x"+strconv.Itoa(n-1))
		}
	}
	return strings.Join(words, " ")
}

// What promtool reads.
type ruleTest struct {
	RuleFiles []string   `yaml:"rule_files"`
	Interval  string     `yaml:"evaluation_interval"`
	Tests     []testCase `yaml:"tests"`
}

type testCase struct {
	Name     string     `yaml:"name"`
	Interval string     `yaml:"interval"`
	Input    []input    `yaml:"input_series"`
	Exprs    []exprTest `yaml:"promql_expr_test"`
}

type input struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

type exprTest struct {
	Expr    string   `yaml:"expr"`
	At      string   `yaml:"eval_time"`
	Samples []sample `yaml:"exp_samples"`
}

type sample struct {
	Labels string  `yaml:"labels"`
	Value  float64 `yaml:"value"`
}

// fire has promtool evaluate the rules over the tape, and requires that exactly
// these alerts fire at some time, and none at its end.
func (p *tape) fire(t *testing.T, want ...string) {
	t.Helper()
	promtool := tool(t, "promtool")
	file, err := filepath.Abs(rulesFile)
	require.NoError(t, err)
	life := time.Duration(p.scrapes-1) * p.every
	c := testCase{Name: t.Name(), Interval: p.every.String()}
	keys := make([]string, 0, len(p.series))
	for k := range p.series {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		c.Input = append(c.Input, input{k, p.values(p.series[k])})
	}
	at := life.String()
	fired := exprTest{Expr: fmt.Sprintf(`max by (alertname) (max_over_time(ALERTS{alertstate="firing"}[%ds]))`, int(life.Seconds())), At: at, Samples: []sample{}}
	slices.Sort(want)
	for _, name := range want {
		fired.Samples = append(fired.Samples, sample{fmt.Sprintf(`{alertname=%q}`, name), 1})
	}
	c.Exprs = []exprTest{fired, {Expr: `ALERTS{alertstate="firing"}`, At: at, Samples: []sample{}}}
	var b bytes.Buffer
	require.NoError(t, yaml.NewEncoder(&b).Encode(ruleTest{[]string{file}, p.every.String(), []testCase{c}}))
	path := filepath.Join(t.TempDir(), "test.yml")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	out, err := exec.Command(promtool, "test", "rules", path).CombinedOutput()
	require.NoError(t, err, string(out))
}

// lived plays a life and returns its tape.
func lived(t *testing.T, people int, every time.Duration, f func(t *testing.T, w *world, p *tape)) (p *tape) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, people)
		p = newTape(w, every)
		f(t, w, p)
		for _, i := range p.all {
			if !i.finished {
				i.stop()
			}
		}
		w.close()
	})
	return p
}

// TestOrdinaryDayRaisesNoAlert is a day with two replicas, a deploy every three
// hours, some messages, and what ends a connection on any day.
func TestOrdinaryDayRaisesNoAlert(t *testing.T) {
	tool(t, "promtool")
	lived(t, 1, time.Minute, func(t *testing.T, w *world, p *tape) {
		n := 1
		active, standby := p.start("bot-1").ready(), p.start("bot-0")
		for hour := range 24 {
			p.run(20 * time.Minute)
			if hour > 6 && hour < 22 {
				w.write(fmt.Sprint("message of hour ", hour))
				require.NoError(t, active.send(w.people[0].JID()))
			}
			switch hour {
			case 4, 11:
				w.sim.Fault(wasim.StreamError("503")).For(w.account.JID()).Now()
			case 9, 15, 18:
				w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
			case 13: // the network is away for three minutes
				away := w.sim.Fault(wasim.UpgradeStatus(503)).Always().Now()
				w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
				p.run(3 * time.Minute)
				away.Stop()
			case 16: // and the backend for twenty seconds
				w.shaky.down.Store(true)
				time.Sleep(20 * time.Second)
				w.shaky.down.Store(false)
			}
			p.run(20 * time.Minute)
			if hour%3 == 2 { // as a platform does it: a new one, then the old one goes
				n++
				next := p.start(fmt.Sprint("bot-", n))
				p.run(time.Minute)
				active.stop()
				p.run(2 * time.Minute)
				active, standby = standby, next
				if next.m.Status().Mode == stability.ModeActive {
					active, standby = next, active
				}
				active.ready()
			}
			p.run(20 * time.Minute)
		}
	}).fire(t)
}

// TestEachAlertFiresInItsTrouble plays each trouble with the real Manager, and
// its end.
func TestEachAlertFiresInItsTrouble(t *testing.T) {
	tool(t, "promtool")
	drop := func(w *world) { w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now() }
	type trouble struct {
		name  string
		every time.Duration
		fires []string
		play  func(t *testing.T, w *world, p *tape)
	}
	troubles := []trouble{
		{"down", 15 * time.Second, []string{"WastabilityDown", "WastabilityFlapping"}, func(t *testing.T, w *world, p *tape) {
			p.start("a").ready()
			p.run(time.Minute)
			away := w.sim.Fault(wasim.UpgradeStatus(503)).Always().Now()
			drop(w)
			p.run(15 * time.Minute)
			away.Stop()
			p.run(20 * time.Minute)
		}},
		{"flapping", 15 * time.Second, []string{"WastabilityFlapping"}, func(t *testing.T, w *world, p *tape) {
			p.start("a").ready()
			for range 8 {
				p.run(75 * time.Second)
				drop(w)
			}
			p.run(20 * time.Minute)
		}},
		{"mute", 15 * time.Second, []string{"WastabilityMute"}, func(t *testing.T, w *world, p *tape) {
			a := p.start("a").ready()
			p.run(time.Minute)
			refuse := w.sim.Fault(wasim.MessageNack(479)).For(w.account.JID()).Always().Now()
			for n := range 6 {
				require.Error(t, a.send(w.people[n%3].JID()))
			}
			p.run(3 * time.Minute)
			refuse.Stop()
			require.NoError(t, a.send(w.people[0].JID()))
			p.run(5 * time.Minute)
		}},
		{"deaf", 15 * time.Second, []string{"WastabilityDeaf"}, func(t *testing.T, w *world, p *tape) {
			a := p.start("a").ready()
			p.run(time.Minute)
			a.hang.Store(int64(12 * time.Minute))
			w.write("slow")
			p.run(20 * time.Minute)
		}},
		{"messages waiting", time.Minute, []string{"WastabilityMessagesWaiting"}, func(t *testing.T, w *world, p *tape) {
			a := p.start("a").ready()
			a.refuse.Store(true)
			w.write("nobody takes this")
			p.run(40 * time.Minute)
			a.refuse.Store(false)
			p.run(40 * time.Minute)
		}},
		{"needs pairing", 15 * time.Second, []string{"WastabilityNeedsPairing"}, func(t *testing.T, w *world, p *tape) {
			a := p.start("a").ready()
			p.run(time.Minute)
			w.away.Store(true)
			w.account.Phone().RemoveDevice(w.account.Devices()[0])
			p.run(5 * time.Minute)
			w.away.Store(false)
			a.ready()
			p.run(3 * time.Minute)
		}},
		{"client outdated", 15 * time.Second, []string{"WastabilityClientOutdated"}, func(t *testing.T, w *world, p *tape) {
			p.start("a").ready()
			p.run(time.Minute)
			old := w.sim.Fault(wasim.Failure(405)).Always().OnNextLogin()
			drop(w)
			p.run(5 * time.Minute)
			old.Stop()
			p.all[0].m.Reconnect()
			p.run(15 * time.Minute)
		}},
		{"no standby", time.Minute, []string{"WastabilityNoStandby"}, func(t *testing.T, w *world, p *tape) {
			p.start("a").ready()
			b := p.start("b")
			p.run(4 * time.Hour)
			b.stop()
			p.run(30 * time.Minute)
			p.start("c")
			p.run(10 * time.Minute)
		}},
		{"holder unfit", 15 * time.Second, []string{"WastabilityDown", "WastabilityFlapping", "WastabilityHolderUnfit"}, func(t *testing.T, w *world, p *tape) {
			p.start("a").ready()
			p.start("b")
			p.run(time.Minute)
			away := w.sim.Fault(wasim.Refused()).Always().Now()
			drop(w)
			p.run(20 * time.Minute)
			away.Stop()
			p.run(30 * time.Minute)
		}},
		{"store unavailable", 15 * time.Second, []string{"WastabilityLeaseEnding", "WastabilityStoreUnavailable"}, func(t *testing.T, w *world, p *tape) {
			p.start("a").ready()
			p.run(time.Minute)
			w.shaky.down.Store(true)
			p.run(5 * time.Minute)
			w.shaky.down.Store(false)
			p.run(10 * time.Minute)
		}},
		{"lease ending", 15 * time.Second, []string{"WastabilityLeaseEnding"}, func(t *testing.T, w *world, p *tape) {
			p.start("a").ready()
			p.run(time.Minute)
			w.shaky.renew.Store(true)
			p.run(60 * time.Second)
			w.shaky.renew.Store(false)
			p.run(10 * time.Minute)
		}},
		{"missing", time.Minute, []string{"WastabilityMissing"}, func(t *testing.T, w *world, p *tape) {
			p.start("a").ready()
			p.run(5 * time.Minute)
			p.all[0].stop()
			p.run(20 * time.Minute)
			p.start("b").ready()
			p.run(2 * time.Minute)
		}},
		{"another program uses the session", 15 * time.Second, []string{"WastabilityDown", "WastabilityAnotherCopy"}, func(t *testing.T, w *world, p *tape) {
			p.start("a").ready()
			p.run(time.Minute)
			for range 2 {
				w.sim.Fault(wasim.Replaced()).For(w.account.JID()).Now()
				p.run(5 * time.Minute)
			}
			p.run(75 * time.Minute)
		}},
		{"restarts do not help", time.Minute, []string{"WastabilityDown", "WastabilityFlapping", "WastabilityRestartsDoNotHelp"}, func(t *testing.T, w *world, p *tape) {
			a := p.start("a").ready()
			p.run(time.Minute)
			away := w.sim.Fault(wasim.Refused()).Always().Now()
			drop(w)
			p.run(3 * time.Hour)
			away.Stop()
			a.m.Reconnect()
			p.run(30 * time.Minute)
		}},
		{"banned", 15 * time.Second, []string{"WastabilityBanned"}, func(t *testing.T, w *world, p *tape) {
			a := p.start("a").ready()
			p.run(time.Minute)
			w.sim.Fault(wasim.Failure(406)).OnNextLogin()
			drop(w)
			p.run(15 * time.Minute)
			a.m.Reconnect() // the ban was lifted: somebody asks for a code
			a.ready()
			p.run(5 * time.Minute)
		}},
		{"banned for some time", 15 * time.Second, []string{"WastabilityBannedForNow"}, func(t *testing.T, w *world, p *tape) {
			p.start("a").ready()
			p.run(time.Minute)
			w.sim.Fault(wasim.TemporaryBan(101, 5*time.Minute)).OnNextLogin()
			drop(w)
			p.run(30 * time.Minute)
		}},
		{"two processes of one name", 15 * time.Second, []string{"WastabilitySameInstanceID"}, func(t *testing.T, w *world, p *tape) {
			p.start("a", stability.WithInstanceID("twin")).ready()
			p.run(5 * time.Minute)
			b := p.start("b", stability.WithInstanceID("twin")).ready()
			p.run(10 * time.Minute)
			b.stop()
			p.run(10 * time.Minute)
		}},
		{"data damaged", 15 * time.Second, []string{"WastabilityDataDamaged"}, func(t *testing.T, w *world, p *tape) {
			a := p.start("a").ready()
			p.run(time.Minute)
			require.NoError(t, a.m.Client().Store.Sessions.PutSession(t.Context(), "1:0", []byte("no session")))
			a.stop()
			b := p.start("b").ready()
			_, _ = b.m.Client().Store.Sessions.GetSession(t.Context(), "1:0")
			p.run(5 * time.Minute)
			require.NoError(t, b.m.PurgeRows(t.Context()))
			p.run(5 * time.Minute)
		}},
		{"messages set aside", 5 * time.Minute, []string{"WastabilityMessagesWaiting", "WastabilityMessagesSetAside"}, func(t *testing.T, w *world, p *tape) {
			a := p.start("a").ready()
			a.refuses.Store("nobody takes this")
			w.write("nobody takes this")
			for range 26 {
				w.write("hello") // others are taken
				p.run(time.Hour)
			}
			list := a.m.Messages()
			require.Len(t, list, 1)
			require.NoError(t, a.m.PurgeMessage(t.Context(), list[0].Entry))
			p.run(time.Hour)
		}},
	}
	for _, a := range alerts {
		require.True(t, slices.ContainsFunc(troubles, func(c trouble) bool { return slices.Contains(c.fires, a.name) }), "no trouble lets %s fire", a.name)
	}
	for _, c := range troubles {
		t.Run(c.name, func(t *testing.T) { lived(t, 3, c.every, c.play).fire(t, c.fires...) })
	}
}

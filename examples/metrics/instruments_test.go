package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/metrics"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// collected are the values of one collection, by instrument and attributes.
func collected(t *testing.T, r *metric.ManualReader) map[string]float64 {
	t.Helper()
	var rm metricdata.ResourceMetrics
	require.NoError(t, r.Collect(context.Background(), &rm))
	out := map[string]float64{}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				put(out, m.Name, d.DataPoints)
			case metricdata.Gauge[int64]:
				put(out, m.Name, d.DataPoints)
			case metricdata.Sum[float64]:
				put(out, m.Name, d.DataPoints)
			case metricdata.Gauge[float64]:
				put(out, m.Name, d.DataPoints)
			default:
				require.Fail(t, "unknown kind of data", "%s: %T", m.Name, d)
			}
		}
	}
	return out
}

func put[N int64 | float64](out map[string]float64, name string, points []metricdata.DataPoint[N]) {
	for _, p := range points {
		key := name
		for _, kv := range p.Attributes.ToSlice() {
			key += fmt.Sprintf(" %s=%s", strings.TrimPrefix(string(kv.Key), "wastability."), kv.Value.AsString())
		}
		out[key] = float64(p.Value)
	}
}

func reader(t *testing.T, m *stability.Manager, opts ...metrics.Option) (*metric.ManualReader, func() error) {
	t.Helper()
	r := metric.NewManualReader()
	unregister, err := metrics.Register(m, metric.NewMeterProvider(metric.WithReader(r)), opts...)
	require.NoError(t, err)
	return r, unregister
}

// TestEachCollectionTellsTheTruth compares each collection of a whole life with
// the Manager and with the service.
func TestEachCollectionTellsTheTruth(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3)
		a := w.process("a").ready()
		r, _ := reader(t, a.m)
		before := map[string]float64{}
		look := func() map[string]float64 {
			synctest.Wait()
			got := collected(t, r)
			st, n := a.m.Status(), a.m.Counts()
			require.Equal(t, 1.0, sumOf(got, "wastability.connection.state "), "in exactly one state")
			require.Equal(t, 1.0, got["wastability.connection.state state="+string(first(metrics.StateOf(st)))])
			d := w.account.Devices()
			online := len(d) > 0 && d[len(d)-1].Online()
			if st.WA == reconnect.StatusConnected {
				require.Equal(t, 1.0, got["wastability.connection.connected"])
				require.True(t, online, "the service has this connection")
				require.InDelta(t, time.Since(st.ConnectedAt).Seconds(), got["wastability.connection.state.age"], 0.001)
			} else {
				require.Zero(t, got["wastability.connection.connected"])
			}
			require.EqualValues(t, n.Attempts, got["wastability.connection.attempts"])
			require.EqualValues(t, st.Messages.Sent.Acknowledged, got["wastability.sends result=acknowledged"])
			if st.Mode == stability.ModeActive {
				require.Equal(t, 1.0, got["wastability.connection.health health="+string(st.Probes.Health)])
				require.InDelta(t, time.Until(st.TrustedUntil).Seconds(), got["wastability.lock.trust.remaining"], 0.001)
				require.EqualValues(t, st.Messages.Received.Waiting.Count, got["wastability.messages.waiting"])
			}
			open := 0.0
			for _, inc := range a.m.Incidents() {
				// Those of the account are the holder's to tell.
				if inc.Active && (st.Mode == stability.ModeActive || !inc.Type.ByHolder()) {
					open++
					require.Equal(t, 1.0, got["wastability.incidents.active incident="+string(inc.Type)])
				}
			}
			require.Equal(t, open, sumOf(got, "wastability.incidents.active "))
			for name, was := range before { // no counter goes back
				if strings.Contains(name, "attempts") || strings.Contains(name, "logins") || strings.Contains(name, "operation.duration") || strings.Contains(name, "disconnects") {
					require.GreaterOrEqual(t, got[name], was, name)
				}
			}
			before = got
			return got
		}
		during := func(d time.Duration) {
			for range 10 {
				time.Sleep(d / 10)
				look()
			}
		}
		during(time.Minute)
		for _, c := range w.people {
			require.NoError(t, a.send(c.JID()))
		}
		w.write("hello")
		during(time.Minute)
		for what, f := range map[string]wasim.Fault{
			"service_unavailable": wasim.StreamError("503"), "": wasim.Reset(),
		} {
			was := look()
			w.sim.Fault(f).For(w.account.JID()).Now()
			look()
			during(3 * time.Minute)
			if what != "" {
				require.Equal(t, was["wastability.connection.disconnects reason="+what]+1, look()["wastability.connection.disconnects reason="+what])
			}
		}
		black := w.sim.Fault(wasim.Silence()).For(w.account.JID()).Always().Now()
		during(5 * time.Minute)
		black.Stop()
		during(5 * time.Minute)
		refuse := w.sim.Fault(wasim.MessageNack(463)).For(w.account.JID()).Always().Now()
		for n := range 6 {
			require.Error(t, a.send(w.people[n%3].JID()))
			look()
		}
		require.Equal(t, 6.0, look()["wastability.sends code=463 result=refused"])
		refuse.Stop()
		a.refuse.Store(true)
		w.write("nobody takes this")
		during(time.Minute)
		require.Equal(t, 1.0, look()["wastability.messages.waiting"])
		a.refuse.Store(false)
		during(20 * time.Minute)
		require.Zero(t, look()["wastability.messages.waiting"])
		w.shaky.down.Store(true)
		during(2 * time.Minute)
		require.Zero(t, look()["wastability.store.available"])
		require.NotZero(t, look()["wastability.store.operations operation=lock result=error"])
		w.shaky.down.Store(false)
		during(5 * time.Minute)
		b := w.process("b")
		during(time.Minute)
		require.Equal(t, 1.0, look()["wastability.connection.connected"])
		a.stop()
		b.ready()
		got := look()
		require.Equal(t, 1.0, got["wastability.connection.state state=closed"])
		require.Zero(t, got["wastability.lock.held"])
		require.NotContains(t, got, "wastability.lock.trust.remaining")
		w.account.Phone().RemoveDevice(w.account.Devices()[0])
		b.stop()
		w.close()
	})
}

func first[A, B any](a A, _ B) A { return a }

func sumOf(values map[string]float64, prefix string) (sum float64) {
	for k, v := range values {
		if strings.HasPrefix(k, prefix) {
			sum += v
		}
	}
	return sum
}

// TestHostileInputMakesNoSeries sends what a stranger and a careless host could
// put into a label.
func TestHostileInputMakesNoSeries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 3)
		a := w.process("a").ready()
		for n := range 40 { // codes that nobody knows
			refuse := w.sim.Fault(wasim.MessageNack(600 + n)).For(w.account.JID()).Always().Now()
			require.Error(t, a.send(w.people[n%3].JID()))
			refuse.Stop()
		}
		for n := range 5 {
			_, _ = a.m.HandleDisconnected(t.Context(), reconnect.Reason(fmt.Sprintf("+1202555010%d said \"boo\"\n", n)))
			a.ready()
		}
		_, _, err := w.memory.Backend().Incidents.Raise(t.Context(), guard.Incident{ID: "x", Type: "wa_of_a_newer_library", Active: true})
		require.NoError(t, err)
		r, _ := reader(t, a.m)
		got := collected(t, r)
		require.Less(t, len(got), 150)
		require.Equal(t, 40.0, got["wastability.sends code=other result=refused"])
		for series := range got {
			require.NotRegexp(t, regexp.MustCompile(`\d{4}|boo|@`), series)
		}
		a.stop()
		w.close()
	})
}

func TestSeveralManagersMakeOneSeriesOrOneEach(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 0)
		a := w.process("a").ready()
		b := w.process("b")
		time.Sleep(time.Minute)
		all := func(yield func(string, *stability.Manager) bool) {
			_ = yield("left", a.m) && yield("none", nil) && yield("right", b.m)
		}
		together, apart := metric.NewManualReader(), metric.NewManualReader()
		_, err := metrics.RegisterAll(all, metric.NewMeterProvider(metric.WithReader(together)))
		require.NoError(t, err)
		_, err = metrics.RegisterAll(all, metric.NewMeterProvider(metric.WithReader(apart)), metrics.WithAccountLabels(nil))
		require.NoError(t, err)
		got := collected(t, together)
		require.Equal(t, 2.0, got["wastability.accounts"])
		require.Equal(t, 1.0, got["wastability.connection.state state=connected"])
		require.Equal(t, 1.0, got["wastability.connection.state state=standby"])
		require.Equal(t, 1.0, got["wastability.lock.term"])
		got = collected(t, apart)
		require.Equal(t, 1.0, got["wastability.accounts account=left"])
		require.Equal(t, 1.0, got["wastability.connection.state account=right state=standby"])
		require.Zero(t, got["wastability.connection.state account=left state=standby"])
		a.stop()
		b.stop()
		w.close()
	})
}

func TestUnregisteredInstrumentsTellNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 0)
		a := w.process("a").ready()
		r, unregister := reader(t, a.m)
		require.NotEmpty(t, collected(t, r))
		require.NoError(t, unregister())
		require.Empty(t, collected(t, r))
		a.stop()
		w.close()
	})
	_, err := metrics.Register(nil, metric.NewMeterProvider())
	require.ErrorContains(t, err, "pass the one")
	_, err = metrics.RegisterAll(func(func(string, *stability.Manager) bool) {}, nil)
	require.ErrorContains(t, err, "MeterProvider")
}

// TestCollectionsMayMeetClose is for the race detector.
func TestCollectionsMayMeetClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.process("a").ready()
		r, unregister := reader(t, a.m)
		ctx, stop := context.WithCancel(t.Context())
		var collecting sync.WaitGroup
		for range 4 {
			collecting.Go(func() {
				for ctx.Err() == nil {
					var rm metricdata.ResourceMetrics
					_ = r.Collect(context.Background(), &rm)
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
		w.write("hello")
		w.sim.Fault(wasim.Reset()).For(w.account.JID()).Now()
		time.Sleep(3 * time.Second)
		a.stop()
		require.NoError(t, unregister())
		stop()
		collecting.Wait()
		w.close()
	})
}

// TestDocumentedNamesAreRegistered reads the table in the package's
// documentation.
func TestDocumentedNamesAreRegistered(t *testing.T) {
	doc, err := os.ReadFile("../../stability/metrics/doc.go")
	require.NoError(t, err)
	want := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^//\t(wastability\.\S+)\s+(sum|counter|largest|least)\s+(\S+)`).FindAllStringSubmatch(string(doc), -1) {
		want[row[1]] = row[3]
	}
	require.NotEmpty(t, want)
	m, err := stability.New(stability.WithBackend(newWorldBackend()))
	require.NoError(t, err)
	r, _ := reader(t, m)
	var rm metricdata.ResourceMetrics
	require.NoError(t, r.Collect(t.Context(), &rm))
	got := map[string]bool{}
	for _, in := range rm.ScopeMetrics[0].Metrics {
		require.Equal(t, want[in.Name], in.Unit, in.Name)
		require.NotEmpty(t, in.Description)
		got[in.Name] = true
	}
	// The rest is there when it means something: for a holder, or in trouble.
	for name := range want {
		if !got[name] {
			require.Regexp(t, `age|trust`, name)
		}
	}
	require.NoError(t, m.Close(t.Context()))
}

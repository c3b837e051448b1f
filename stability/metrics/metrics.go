package metrics

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/wastability/wastability/stability"
)

// Scope is the name of the meter that the instruments belong to.
const Scope = "github.com/wastability/wastability/stability/metrics"

// Option configures Register and RegisterAll.
type Option func(*config)

type config struct {
	label func(account string) string
}

// WithAccount gives every series the attribute wastability.account with this
// value. It is for Register; a fixed word for the account is best. Everybody
// who reads the metrics sees it: give no phone number.
func WithAccount(label string) Option {
	return func(c *config) { c.label = func(string) string { return label } }
}

// WithAccountLabels gives each account of RegisterAll its own series, with the
// attribute wastability.account. label makes the value from the sequence's key;
// nil takes the key. Everybody who reads the metrics sees the value: return no
// phone number. Each value costs some 130 series.
func WithAccountLabels(label func(account string) string) Option {
	if label == nil {
		label = func(account string) string { return account }
	}
	return func(c *config) { c.label = label }
}

// Register makes the instruments of one Manager. They read it at each
// collection, and do nothing between. unregister takes them away; call it when
// the Manager is closed, or leave it: a closed Manager is reported as closed.
//
// Several Managers of one MeterProvider need an account label each, or one
// RegisterAll: series of the same name and attributes exclude each other.
func Register(m *stability.Manager, mp metric.MeterProvider, opts ...Option) (unregister func() error, err error) {
	if m == nil {
		return nil, errors.New("metrics: no Manager: pass the one that stability.New returned")
	}
	return RegisterAll(func(yield func(string, *stability.Manager) bool) { yield("", m) }, mp, opts...)
}

// RegisterAll is Register for several Managers: managers yields those that
// there are, each with a name for its account, and is called at each
// collection. It must not block, and may be called by several goroutines at
// once. Without account labels the series are about all accounts together: see
// the table of the package's documentation.
func RegisterAll(managers iter.Seq2[string, *stability.Manager], mp metric.MeterProvider, opts ...Option) (unregister func() error, err error) {
	switch {
	case managers == nil:
		return nil, errors.New("metrics: no Managers: pass a sequence of them, each with the name of its account")
	case mp == nil:
		return nil, errors.New("metrics: no MeterProvider: pass the program's own, for example sdk/metric.NewMeterProvider")
	}
	var cfg config
	for _, o := range opts {
		o(&cfg)
	}
	meter := mp.Meter(Scope)
	made := make([]made, len(table))
	all := make([]metric.Observable, len(table))
	for i := range table {
		if made[i], err = table[i].make(meter); err != nil {
			return nil, fmt.Errorf("metrics: make %s: %w", table[i].name, err)
		}
		all[i] = made[i].observable()
	}
	registration, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for label, f := range collect(managers, cfg.label) {
			f.observe(o, made, cfg.label != nil, label)
		}
		return nil
	}, all...)
	if err != nil {
		return nil, fmt.Errorf("metrics: register: %w", err)
	}
	return registration.Unregister, nil
}

// made is an instrument of a meter: one of the two.
type made struct {
	whole metric.Int64Observable
	float metric.Float64Observable
}

func (m made) observable() metric.Observable {
	if m.whole != nil {
		return m.whole
	}
	return m.float
}

// make makes the instrument: a measure in seconds has fractions, and the rest
// is counted.
func (i *instrument) make(m metric.Meter) (out made, err error) {
	unit, text := metric.WithUnit(i.unit), metric.WithDescription(i.text)
	switch {
	case i.unit == seconds && i.kind == counter:
		out.float, err = m.Float64ObservableCounter(i.name, unit, text)
	case i.unit == seconds:
		out.float, err = m.Float64ObservableGauge(i.name, unit, text)
	case i.kind == counter:
		out.whole, err = m.Int64ObservableCounter(i.name, unit, text)
	case i.kind == sum:
		out.whole, err = m.Int64ObservableUpDownCounter(i.name, unit, text)
	default:
		out.whole, err = m.Int64ObservableGauge(i.name, unit, text)
	}
	return out, err
}

// collect reads all Managers, and sums up by label; without labels there is one
// frame, also when there is no Manager.
func collect(managers iter.Seq2[string, *stability.Manager], label func(string) string) map[string]frame {
	frames := map[string]frame{}
	if label == nil {
		frames[""] = newFrame()
	}
	for account, m := range managers {
		if m == nil {
			continue
		}
		key := ""
		if label != nil {
			key = label(account)
		}
		f, ok := frames[key]
		if !ok {
			f = newFrame()
			frames[key] = f
		}
		f.take(read(m))
	}
	return frames
}

// frame holds the values of one label at one collection: those of an instrument
// in the order of its variants.
type frame [][]cell

type cell struct {
	value float64
	set   bool
}

func newFrame() frame {
	f := make(frame, len(table))
	for i := range table {
		f[i] = make([]cell, max(1, len(table[i].variants)))
		if table[i].kind != gauge {
			for k := range f[i] {
				f[i][k].set = true // at zero: a count that begins with 1 would hide its first event
			}
		}
	}
	return f
}

// take adds what was read of one Manager.
func (f frame) take(s *sample) {
	for i := range table {
		in := &table[i]
		in.read(s, func(value float64, variant ...string) {
			c := &f[i][in.index(variant)]
			switch {
			case in.kind != gauge:
				c.value += value
			case !c.set, in.least && value < c.value, !in.least && value > c.value:
				c.value = value
			}
			c.set = true
		})
	}
}

// observe hands the values to the collection.
func (f frame) observe(o metric.Observer, made []made, labelled bool, label string) {
	for i := range table {
		for k, c := range f[i] {
			if !c.set {
				continue
			}
			set := table[i].sets[k]
			if labelled {
				set = attribute.NewSet(append(set.ToSlice(), attribute.String(AttributeAccount, label))...)
			}
			with := metric.WithAttributeSet(set)
			if made[i].whole != nil {
				o.ObserveInt64(made[i].whole, int64(c.value), with)
			} else {
				o.ObserveFloat64(made[i].float, c.value, with)
			}
		}
	}
}

package stability

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/wastability/wastability/authstore"
)

// fail remembers a bad option; New reports all of them together.
func (c *config) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("stability: "+format, args...))
}

// duration checks one setting: zero keeps the default, negative is an error.
func (c *config) duration(option string, into *time.Duration, d time.Duration) {
	switch {
	case d < 0:
		c.fail("%s(%s) is negative: pass a duration above zero, or zero for the default", option, d)
	case d > 0:
		*into = d
	}
}

// check looks at what no single option can see.
func (c *config) check() error {
	if !c.hasBackend {
		c.fail("no backend: pass WithBackend, for example with localbackend.Open(\"wa.db\")")
	} else {
		b := c.backend
		if missing(b.Lock) && c.lock == nil {
			c.fail("WithBackend: Backend.Lock is nil: set it, or pass WithLock")
		}
		if missing(b.Auth) && c.store == nil {
			c.fail("WithBackend: Backend.Auth is nil: set it, or pass WithAuthStore")
		}
		if missing(b.State) {
			c.fail("WithBackend: Backend.State is nil: without it a restart forgets bans and retries")
		}
		if missing(b.Incidents) {
			c.fail("WithBackend: Backend.Incidents is nil: without it nobody learns what is wrong")
		}
	}
	if c.lock != nil && len(c.lockOptions) > 0 {
		c.fail("WithLock together with WithLockOptions: a lock of your own has its own durations")
	}
	if c.lock != nil && c.instanceID != "" {
		c.fail("WithLock together with WithInstanceID: a lock of your own has its own holder id")
	}
	if c.store != nil && (c.aead != nil || len(c.storeOptions) > 0) {
		c.fail("WithAuthStore together with WithAEAD or WithAuthStoreOptions: a store of your own does its own sealing")
	}
	for option, err := range map[string]error{
		"WithReconnect": c.policy.Validate(),
		"WithKeepalive": c.keepalive.Validate(),
		"WithAutoHeal":  c.autoheal.Validate(),
		"WithGuard":     c.guardPolicy.Validate(),

		"WithAuthStoreOptions": authstore.Validate(c.storeOptions...),
	} {
		if err != nil {
			c.errs = append(c.errs, fmt.Errorf("stability: %s: %w", option, err))
		}
	}
	c.fitWindows()
	return errors.Join(c.errs...)
}

// fitWindows makes the state remember for as long as auto-heal looks back.
func (c *config) fitWindows() {
	heal := c.autoheal.Defaults()
	for _, w := range []struct {
		name string
		have *time.Duration
		need time.Duration
	}{
		{"LoopWindow", &c.policy.LoopWindow, heal.Window},
		{"RestartWindow", &c.policy.RestartWindow, heal.BudgetWindow},
	} {
		if *w.have == 0 {
			*w.have = w.need
		} else if *w.have < w.need {
			c.fail("WithReconnect: %s (%s) is shorter than WithAutoHeal looks back (%s): leave it out, or raise it", w.name, *w.have, w.need)
		}
	}
}

// given returns options that are passed on, without those that are nil.
func given[T ~func(O), O any](c *config, option string, opts []T) []T {
	var kept []T
	for i, o := range opts {
		if o == nil {
			c.fail("%s: option %d is nil: leave it out", option, i+1)
			continue
		}
		kept = append(kept, o)
	}
	return kept
}

// missing also sees an interface that holds a nil pointer.
func missing(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Func, reflect.Interface, reflect.Chan, reflect.Slice:
		return r.IsNil()
	}
	return false
}

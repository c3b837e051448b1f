package stability

import (
	"log/slog"
	"reflect"
	"slices"

	"go.mau.fi/whatsmeow/types/events"
)

// onAppState notes which collections of the app state (contacts, archived and
// muted chats, settings) could not be synced. It says nothing about messages,
// and whatsmeow asks the phone to mend it, so it is shown and not acted upon.
// The event is known by its name, since older versions of whatsmeow lack it;
// false means that the event is about something else.
func (a *attachment) onAppState(evt any) bool {
	if e, ok := evt.(*events.AppStateSyncComplete); ok {
		a.m.mu.Lock()
		defer a.m.mu.Unlock()
		delete(a.appState, string(e.Name))
		return true
	}
	v := reflect.ValueOf(evt)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct || v.Elem().Type().Name() != "AppStateSyncError" {
		return false
	}
	name := "unknown"
	if f := v.Elem().FieldByName("Name"); f.IsValid() && f.Kind() == reflect.String {
		name = f.String()
	}
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if _, known := a.appState[name]; known {
		return true
	}
	if a.appState == nil {
		a.appState = map[string]struct{}{}
	}
	a.appState[name] = struct{}{}
	a.m.logLocked(slog.LevelWarn, "a part of the app state could not be read: contacts, archived or muted chats may be out of date; messages are not affected", "part", name)
	return true
}

// appStateFailed lists the collections that could not be synced.
func (a *attachment) appStateFailed() []string {
	var names []string
	for name := range a.appState {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

name={{ container.name }} trigger={{ trigger }} path={{ path }} greeting={{ properties.greeting }} user={{ config_get("user.greeting", "unset") }}
{% if container.privileged == "true" %}privileged{% else %}unprivileged{% endif %}
